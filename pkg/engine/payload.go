package engine

import (
	"encoding/binary"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// What a frame's payload holds. Of a run: its deltas, one after the other,
//
//	type u8 | flags u8 | uvarint len, path | uvarint len, body
//
// flags: bit 0 no auto-parents; a bit that nobody knows is an error, for it may
// be a condition. Of a run in a pack, each delta is followed by
// its outcome,
//
//	status u8 | reason u8 | flags u8 (bit 0 coerced) | uvarint failing op + 1
//
// Of a snapshot: the document; the frame's flag bit 0 says that it is absent, bit 1
// that it is the snapshot of a purge. Of a tombstone: nothing.
const (
	deltaNoAutoParents = 1
	outcomeCoerced     = 1
	snapshotAbsent     = 1
	snapshotPurged     = 2
)

func appendDelta(b []byte, d *merge.Delta) []byte {
	return appendDeltaParts(b, d.Type, d.Strict, d.Path, d.Body)
}

func appendDeltaParts[P string | []byte](b []byte, typ merge.Type, strict bool, path P, body []byte) []byte {
	var flags byte
	if strict {
		flags |= deltaNoAutoParents
	}
	b = append(b, byte(typ), flags)
	b = binary.AppendUvarint(b, uint64(len(path)))
	b = append(b, path...)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendOutcome(b []byte, o merge.Outcome) []byte {
	var flags byte
	if o.Coerced {
		flags |= outcomeCoerced
	}
	b = append(b, byte(o.Status), byte(o.Reason), flags)
	return binary.AppendUvarint(b, uint64(o.Op+1))
}

// payloadReader takes a payload apart. Bodies alias the payload.
type payloadReader struct {
	b   []byte
	err error
}

func (r *payloadReader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *payloadReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *payloadReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *payloadReader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: payload ends in the middle of a delta", codec.ErrDamaged)
	}
	r.b = nil
}

func (r *payloadReader) delta() merge.Delta {
	t, flags := merge.Type(r.byte()), r.byte()
	path, body := r.bytes(), r.bytes()
	switch {
	case r.err != nil:
	case !t.Valid():
		r.err = fmt.Errorf("%w: merge type %d", codec.ErrDamaged, t)
	case flags&^deltaNoAutoParents != 0:
		r.err = fmt.Errorf("%w: delta flags %08b; a newer version of Lake may know them", codec.ErrDamaged, flags)
	}
	return merge.Delta{Type: t, Path: string(path), Body: body, Strict: flags&deltaNoAutoParents != 0}
}

func (r *payloadReader) outcome() merge.Outcome {
	status, reason, flags := r.byte(), r.byte(), r.byte()
	op := r.uvarint()
	return merge.Outcome{Status: merge.Status(status), Reason: merge.Reason(reason), Op: int(op) - 1, Coerced: flags&outcomeCoerced != 0}
}

func (r *payloadReader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.err = fmt.Errorf("%w: %d bytes after the last delta", codec.ErrDamaged, len(r.b))
	}
	return r.err
}

// decodeRun appends the deltas of a run's frame to ds.
func decodeRun(ds []merge.Delta, f *codec.Frame) ([]merge.Delta, error) {
	r := payloadReader{b: f.Payload}
	for range f.N {
		d := r.delta()
		if r.err != nil {
			break
		}
		ds = append(ds, d)
	}
	return ds, r.end()
}

// decodePack gives the deltas and outcomes of a run in a pack.
func decodePack(f *codec.Frame) (ds []merge.Delta, os []merge.Outcome, err error) {
	r := payloadReader{b: f.Payload}
	for range f.N {
		d := r.delta()
		o := r.outcome()
		if r.err != nil {
			break
		}
		ds, os = append(ds, d), append(os, o)
	}
	return ds, os, r.end()
}

func versionOf(v codec.Version) Version { return Version{Sec: v.Sec, Seq: v.Seq} }
