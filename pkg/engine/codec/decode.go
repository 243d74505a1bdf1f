package codec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
	"math/bits"
)

// Decode reads the one frame at the start of b; n is the number of bytes it
// takes. Bytes behind it are not looked at.
//
// The payload of an uncompressed frame shares memory with b; a compressed one,
// and every string, has its own. Memory is bounded by len(b) and
// Options.MaxPayload, whatever the lengths in b claim.
//
// Errors, by errors.Is: ErrDamaged when anything was flipped, cut or is not a
// frame at all; ErrFormat (ErrKind, ErrFlags), ErrEncrypted and ErrTooLarge when
// the frame is intact but cannot be read here. Never a frame and an error.
func Decode(b []byte, o Options) (f Frame, n int, err error) {
	e, n, err := split(b)
	if err != nil {
		return Frame{}, 0, err
	}
	if f, err = e.frame(o); err != nil {
		return Frame{}, 0, err
	}
	return f, n, nil
}

// Located is a frame with its place in the object it was read from.
type Located struct {
	Frame
	Off, Len int64 // bytes
}

// Frames walks the frames of a whole object, in order. The first frame that
// cannot be read ends the walk: it yields its offset with the error, as by Decode.
// An object that ends after a frame with More set yields ErrDamaged.
func Frames(b []byte, o Options) iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		more := false
		for off := 0; off < len(b); {
			f, n, err := Decode(b[off:], o)
			if err != nil {
				yield(Located{Off: int64(off)}, fmt.Errorf("frame at byte %d: %w", off, err))
				return
			}
			if !yield(Located{Frame: f, Off: int64(off), Len: int64(n)}, nil) {
				return
			}
			more = f.More
			off += n
		}
		if more {
			yield(Located{Off: int64(len(b))}, fmt.Errorf("object cut at byte %d, more frames belong to it: %w", len(b), ErrDamaged))
		}
	}
}

// envelope is a frame cut into its fields: what every format has in common.
type envelope struct {
	format, kind, flags byte
	keyID               uint32
	header, payload     []byte // share memory with the input
}

// split finds the frame at the start of b and verifies its checksum.
func split(b []byte) (e envelope, n int, err error) {
	if len(b) < minFrame {
		return e, 0, fmt.Errorf("%d bytes are too few for a frame: %w", len(b), ErrDamaged)
	}
	if string(b[:len(magic)]) != magic {
		return e, 0, fmt.Errorf("no frame begins here: %w", ErrDamaged)
	}
	// Lengths are compared as uint64 with what is left: they cannot overflow.
	left := uint64(len(b) - minFrame)
	headLen := uint64(binary.LittleEndian.Uint32(b[offHeadLen:]))
	if headLen > left {
		return e, 0, fmt.Errorf("header of %d bytes, %d left: %w", headLen, left, ErrDamaged)
	}
	left -= headLen
	at := offHeader + int(headLen)
	payLen := uint64(binary.LittleEndian.Uint32(b[at:]))
	if payLen > left {
		return e, 0, fmt.Errorf("payload of %d bytes, %d left: %w", payLen, left, ErrDamaged)
	}
	end := at + lenSize + int(payLen)
	if got, want := crc32.Checksum(b[:end], castagnoli), binary.LittleEndian.Uint32(b[end:]); got != want {
		return e, 0, fmt.Errorf("checksum %08x, stored %08x: %w", got, want, ErrDamaged)
	}
	return envelope{
		format:  b[offFormat],
		kind:    b[offKind],
		flags:   b[offFlags],
		keyID:   binary.LittleEndian.Uint32(b[offKeyID:]),
		header:  b[offHeader:at],
		payload: b[at+lenSize : end : end],
	}, end + crcSize, nil
}

// frame interprets an envelope of format 1.
func (e *envelope) frame(o Options) (f Frame, err error) {
	kind, comp := Kind(e.kind), Compression(e.flags&flagCompression)
	switch {
	case e.format != format:
		return f, fmt.Errorf("format %d, this version reads %d: %w", e.format, format, ErrFormat)
	case kind < KindRun || kind > KindPack:
		return f, fmt.Errorf("%s: %w", kind, ErrKind)
	case e.flags&^flagsKnown != 0 || comp > Zstd:
		return f, fmt.Errorf("flags %08b: %w", e.flags, ErrFlags)
	case e.flags&flagEncrypted != 0:
		return f, fmt.Errorf("key id %d: %w", e.keyID, ErrEncrypted)
	case e.keyID != 0:
		return f, fmt.Errorf("key id %d on a frame that is not encrypted: %w", e.keyID, ErrFlags)
	case len(e.header) > MaxHeader:
		return f, fmt.Errorf("header of %d bytes, limit %d: %w", len(e.header), MaxHeader, ErrTooLarge)
	}

	size, err := f.Header.parse(e.header)
	if err != nil {
		return Frame{}, err
	}
	f.Kind = kind
	f.More = e.flags&flagMore != 0
	if size > o.maxPayload() {
		return Frame{}, fmt.Errorf("frame of %q: payload of %d bytes, limit %d: %w", f.Catalog, size, o.maxPayload(), ErrTooLarge)
	}

	if comp == None {
		if uint64(len(e.payload)) != size {
			return Frame{}, fmt.Errorf("frame of %q: payload of %d bytes, announced %d: %w", f.Catalog, len(e.payload), size, ErrDamaged)
		}
		f.Payload = e.payload
		return f, nil
	}
	if f.Payload, err = decompress(e.payload, size, comp); err != nil {
		return Frame{}, fmt.Errorf("frame of %q: %w", f.Catalog, err)
	}
	return f, nil
}

// parse fills h from the bytes of a header and returns the payload's size.
func (h *Header) parse(b []byte) (size uint64, err error) {
	r := reader{s: string(b)} // one allocation holds every string of the header
	h.Catalog = r.str()
	h.First.Sec = int64(r.uvarint(math.MaxInt64))
	h.First.Seq = uint32(r.uvarint(math.MaxUint32))
	h.N = uint32(r.uvarint(math.MaxUint32))
	h.Writer = r.str()
	h.Author = r.str()
	h.Epoch = r.uvarint(math.MaxUint64)
	z := r.uvarint(math.MaxUint64)
	h.Created = int64(z>>1) ^ -int64(z&1)
	h.Flags = uint32(r.uvarint(math.MaxUint32))
	size = r.uvarint(math.MaxUint64)

	const idMin = 1 + len(ID{}.Fingerprint) // an empty id: what bounds the count
	if n := r.uvarint(uint64(len(r.s)-r.at) / uint64(idMin)); n > 0 {
		h.ID = make([]ID, n)
		for i := range h.ID {
			h.ID[i].ID = r.str()
			copy(h.ID[i].Fingerprint[:], r.take(uint64(len(h.ID[i].Fingerprint))))
		}
	}
	if r.bad || r.at != len(r.s) {
		return 0, fmt.Errorf("header of %d bytes is malformed near byte %d: %w", len(b), r.at, ErrDamaged)
	}
	return size, nil
}

// reader takes fields from the front of s; after the first bad one it only
// returns zero values.
type reader struct {
	s   string
	at  int
	bad bool
}

func (r *reader) take(n uint64) string {
	if r.bad || n > uint64(len(r.s)-r.at) {
		r.bad = true
		return ""
	}
	s := r.s[r.at : r.at+int(n)]
	r.at += int(n)
	return s
}

func (r *reader) str() string { return r.take(r.uvarint(math.MaxUint32)) }

// uvarint refuses values above limit and spellings longer than the shortest.
func (r *reader) uvarint(limit uint64) uint64 {
	var v uint64
	for i := 0; ; i++ {
		if r.bad || r.at >= len(r.s) || i == binary.MaxVarintLen64 {
			r.bad = true
			return 0
		}
		c := r.s[r.at]
		r.at++
		if i == binary.MaxVarintLen64-1 && c > 1 {
			r.bad = true // past 64 bits
			return 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > limit || i+1 != max(1, (bits.Len64(v)+6)/7) {
				r.bad = true
				return 0
			}
			return v
		}
	}
}
