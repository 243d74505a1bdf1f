package engine

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// segment is a group on its way.
type segment struct {
	id      SegmentID
	created int64 // index time, ms
	runs    []*run
	after   []*segment    // segments of this process to be committed before, as they share a catalog
	decided chan struct{} // closed when no run of it is open any more, as far as this process can do
}

// scratch is what segments are laid out in. What leaves is a copy of its own size: a
// frame needs room for its payload as it is, of which compression leaves a part, and
// nobody knows for how long a put that was given up still reads its bytes.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// encode lays out a segment and notes where each frame stands.
func (s *segment) encode() ([]byte, error) {
	room := scratch.Get().(*[]byte)
	defer scratch.Put(room)
	b := (*room)[:0]
	for i, r := range s.runs {
		f := codec.Frame{Header: codec.Header{
			Kind: codec.KindRun, Catalog: r.catalog, First: r.first.Codec(), N: uint32(r.n), Writer: s.id.Writer, Author: r.author,
			Epoch: s.id.Epoch, ID: []codec.ID{{ID: r.id, Fingerprint: r.fingerprint}}, Created: s.created, More: i < len(s.runs)-1,
		}, Payload: r.payload}
		off := len(b)
		var err error
		if b, err = codec.Append(b, &f, codec.Options{Compression: codec.S2, MaxPayload: maxFramePayload}); err != nil {
			return nil, fmt.Errorf("encode segment %s: %w", s.id.Key(), err)
		}
		r.off, r.len = int64(off), int64(len(b)-off)
	}
	if cap(b) <= maxScratch {
		*room = b
	}
	return bytes.Clone(b), nil
}

// maxScratch is the most that is kept of a scratch, bytes.
const maxScratch = 16 << 20

// maxFramePayload is the decompression ceiling: a document of 64 MiB and what
// stands beside it, with room for larger limits.
const maxFramePayload = 512 << 20
