package codec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append encodes f at the end of dst and returns the extended slice, which may
// have moved. Equal frames and options give equal bytes. f is only read.
//
// It returns dst unchanged with ErrTooLarge when payload or header exceed their
// limits, and with a plain error when f could not be decoded again: an unknown
// kind or compression, or a negative second.
func Append(dst []byte, f *Frame, o Options) ([]byte, error) {
	if err := check(f, o); err != nil {
		return dst, err
	}
	start := len(dst)
	const overhead = 16 // of a compressor on what it cannot compress, before it is undone
	dst = slices.Grow(dst, headerBound(&f.Header)+minFrame+len(f.Payload)+overhead)

	dst = append(dst, magic...)
	dst = append(dst, format, byte(f.Kind), 0)
	dst = binary.LittleEndian.AppendUint32(dst, 0) // key id
	dst = binary.LittleEndian.AppendUint32(dst, 0) // header length, below
	dst = appendHeader(dst, f)
	headLen := len(dst) - start - offHeader
	if headLen > MaxHeader {
		return dst[:start], fmt.Errorf("frame of %q: header of %d bytes, limit %d: %w", f.Catalog, headLen, MaxHeader, ErrTooLarge)
	}
	binary.LittleEndian.PutUint32(dst[start+offHeadLen:], uint32(headLen))

	lenAt := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, 0) // payload length, below
	used := None
	if len(f.Payload) >= o.minCompress() {
		dst, used = compress(dst, f.Payload, o.Compression)
	}
	if used == None {
		dst = append(dst, f.Payload...)
	}
	binary.LittleEndian.PutUint32(dst[lenAt:], uint32(len(dst)-lenAt-lenSize))

	flags := byte(used)
	if f.More {
		flags |= flagMore
	}
	dst[start+offFlags] = flags
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli)), nil
}

func check(f *Frame, o Options) error {
	switch {
	case f.Kind < KindRun || f.Kind > KindPack:
		return fmt.Errorf("frame of %q: %s: %w", f.Catalog, f.Kind, ErrKind)
	case f.First.Sec < 0:
		return fmt.Errorf("frame of %q: version second %d is negative", f.Catalog, f.First.Sec)
	case o.Compression > Zstd:
		return fmt.Errorf("frame of %q: unknown compression %d", f.Catalog, o.Compression)
	case uint64(len(f.Payload)) > o.maxPayload():
		return fmt.Errorf("frame of %q: payload of %d bytes, limit %d: %w", f.Catalog, len(f.Payload), o.maxPayload(), ErrTooLarge)
	}
	return nil
}

func appendHeader(dst []byte, f *Frame) []byte {
	dst = appendString(dst, f.Catalog)
	dst = binary.AppendUvarint(dst, uint64(f.First.Sec))
	dst = binary.AppendUvarint(dst, uint64(f.First.Seq))
	dst = binary.AppendUvarint(dst, uint64(f.N))
	dst = appendString(dst, f.Writer)
	dst = appendString(dst, f.Author)
	dst = binary.AppendUvarint(dst, f.Epoch)
	dst = binary.AppendVarint(dst, f.Created)
	dst = binary.AppendUvarint(dst, uint64(f.Flags))
	dst = binary.AppendUvarint(dst, uint64(len(f.Payload)))
	dst = binary.AppendUvarint(dst, uint64(len(f.ID)))
	for i := range f.ID {
		dst = appendString(dst, f.ID[i].ID)
		dst = append(dst, f.ID[i].Fingerprint[:]...)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// headerBound is at least the encoded size of h, so that Append grows dst once.
func headerBound(h *Header) int {
	n := len(h.Catalog) + len(h.Writer) + len(h.Author) + 11*binary.MaxVarintLen64
	for i := range h.ID {
		n += len(h.ID[i].ID) + binary.MaxVarintLen32 + len(h.ID[i].Fingerprint)
	}
	return n
}
