package codec

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// An encoder or decoder of zstd holds hundreds of kilobytes of tables, so they are
// kept. Each runs one call at a time and starts no goroutine. S2 keeps its own.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), // the frame has its own
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // constant options
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecodeAllCapLimit(true), // the ceiling is the buffer handed in
			zstd.WithDecoderMaxWindow(maxStored))
		if err != nil {
			panic(err) // constant options
		}
		return d
	}}
)

// compress appends p, compressed, to dst. It returns dst as it was and None when
// that would not be smaller.
func compress(dst, p []byte, c Compression) ([]byte, Compression) {
	start := len(dst)
	switch c {
	case S2:
		// s2.Encode writes into the room behind dst if it is large enough, else into
		// a slice of its own: append then does the right thing in both cases.
		out := s2.Encode(dst[start:start:cap(dst)], p)
		if len(out) < len(p) {
			return append(dst, out...), S2
		}
	case Zstd:
		e := encoders.Get().(*zstd.Encoder)
		out := e.EncodeAll(p, dst)
		encoders.Put(e)
		if len(out)-start < len(p) {
			return out, Zstd
		}
		return out[:start], None // keep the room that was grown
	}
	return dst, None
}

// decompress returns the size bytes that p holds. The caller has checked size
// against the ceiling; nothing larger is allocated, and nothing at all when p
// itself announces another size.
func decompress(p []byte, size uint64, c Compression) ([]byte, error) {
	switch c {
	case S2:
		n, err := s2.DecodedLen(p)
		if err != nil || uint64(n) != size {
			return nil, fmt.Errorf("payload is not %d bytes of S2: %w", size, ErrDamaged)
		}
		out, err := s2.Decode(make([]byte, n), p)
		if err != nil {
			return nil, fmt.Errorf("S2 payload: %w: %w", err, ErrDamaged)
		}
		return out, nil
	case Zstd:
		var h zstd.Header
		if err := h.Decode(p); err != nil || !h.HasFCS || h.FrameContentSize != size {
			return nil, fmt.Errorf("payload is not %d bytes of zstd: %w", size, ErrDamaged)
		}
		d := decoders.Get().(*zstd.Decoder)
		out, err := d.DecodeAll(p, make([]byte, 0, size))
		decoders.Put(d)
		if err != nil {
			return nil, fmt.Errorf("zstd payload: %w: %w", err, ErrDamaged)
		}
		if uint64(len(out)) != size {
			return nil, fmt.Errorf("zstd payload of %d bytes, announced %d: %w", len(out), size, ErrDamaged)
		}
		return out, nil
	}
	return nil, fmt.Errorf("compression %d: %w", c, ErrFlags)
}
