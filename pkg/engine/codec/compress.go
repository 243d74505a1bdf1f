package codec

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// zstdAtOnce is how many compressions, and decompressions, of zstd run side by
// side; each keeps hundreds of kilobytes of tables, and more would wait for a
// processor anyway. S2 keeps its own.
var zstdAtOnce = min(runtime.GOMAXPROCS(0), 8)

// One encoder and one decoder for everybody, made complete when the program
// starts. They hand out their workers by a channel: a channel that is made by the
// first caller would belong to that caller's testing/synctest bubble.
var (
	encoder = newEncoder()
	decoder = newDecoder()
)

func newEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(zstdAtOnce),
		zstd.WithEncoderCRC(false), // the frame has its own
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // constant options
	}
	e.EncodeAll(nil, nil) // makes the channel
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(zstdAtOnce),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), // the ceiling is the buffer handed in
		zstd.WithDecoderMaxWindow(maxStored))
	if err != nil {
		panic(err) // constant options
	}
	return d
}

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
		out := encoder.EncodeAll(p, dst)
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
		out, err := decoder.DecodeAll(p, make([]byte, 0, size))
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
