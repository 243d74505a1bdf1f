package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
)

// Salvage walks all of an object that may be damaged: its intact frames, and, each
// with the error of its first byte, the stretches between them that are none.
// An object that was cut between two frames ends with a stretch of no bytes.
//
// Of a stretch the Header is what stands at its beginning, as far as it can be parsed,
// else zero: no checksum vouches for it. Its More says that the object may have gone
// on behind it, no one knows how far.
func Salvage(b []byte, o Options) iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		more := false
		for off := 0; off < len(b); {
			f, n, err := Decode(b[off:], o)
			if err != nil {
				n = stretch(b[off:])
				f = Frame{Header: believe(b[off : off+n])}
				size, _ := claimed(b[off:])
				f.More = off+n == len(b) && (size != n || b[off+offFlags]&flagMore != 0)
				err = fmt.Errorf("frame at byte %d: %w", off, err)
			}
			if !yield(Located{Frame: f, Off: int64(off), Len: int64(n)}, err) {
				return
			}
			off += n
			more = err == nil && f.More
		}
		if more || len(b) == 0 {
			yield(Located{Frame: Frame{Header: Header{More: true}}, Off: int64(len(b))}, fmt.Errorf("object cut at byte %d: %w", len(b), ErrDamaged))
		}
	}
}

// stretch is how many bytes at the start of b belong to what is no frame: as many as
// its own lengths say, if a frame or the end of the object follows, else up to a
// place from which frames follow each other to the end. An author or an id may be
// spelled like a frame: that is not followed by others, and where the object was
// cut right behind it, it is shorter than decoy.
func stretch(b []byte) int {
	if _, n, err := split(b); err == nil {
		return n // whole, only this version cannot read it
	}
	if n, ok := claimed(b); ok {
		if _, _, err := split(b[n:]); n == len(b) || err == nil {
			return n
		}
	}
	for at := 1; ; at++ {
		i := bytes.Index(b[at:], []byte(magic))
		if i < 0 {
			return len(b)
		}
		if at += i; len(b)-at > decoy && intact(b[at:]) {
			return at
		}
	}
}

// decoy is more than a client can spell in one field of a header, bytes.
const decoy = 512

// claimed is how long the frame at the start of b is by its own lengths.
func claimed(b []byte) (n int, ok bool) {
	if len(b) < minFrame {
		return 0, false
	}
	left := uint64(len(b) - minFrame)
	headLen := uint64(binary.LittleEndian.Uint32(b[offHeadLen:]))
	if headLen > left {
		return 0, false
	}
	payLen := uint64(binary.LittleEndian.Uint32(b[offHeader+headLen:]))
	return minFrame + int(headLen) + int(payLen), payLen <= left-headLen
}

// intact tells whether b is frames and nothing else.
func intact(b []byte) bool {
	for len(b) > 0 {
		_, n, err := split(b)
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

// believe parses the header at the start of a damaged frame.
func believe(b []byte) (h Header) {
	if len(b) < offHeader || string(b[:len(magic)]) != magic || b[offFormat] != format {
		return Header{}
	}
	headLen := uint64(binary.LittleEndian.Uint32(b[offHeadLen:]))
	if headLen > uint64(len(b)-offHeader) || headLen > MaxHeader {
		return Header{}
	}
	if _, err := h.parse(b[offHeader : offHeader+int(headLen)]); err != nil {
		return Header{}
	}
	h.Kind = Kind(b[offKind])
	return h
}
