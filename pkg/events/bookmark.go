package events

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// MaxCursorBytes is the longest cursor of a watch of many catalogs.
const MaxCursorBytes = 2048

// bookmark is where a watch of many catalogs stands. It outlives the stream:
//
//	place     of the stream: everything up to its message was told. While the
//	          stream is there, this is enough.
//	horizons  of each shard the second of the index's clock before which, less
//	          slack, everything was told. When the stream is lost, catalogs that
//	          were written since are looked for in the list of catalogs.
//	recent    the last versions of the catalogs that were told last: they are
//	          exact whatever is lost.
//	sweeping  that search was under way, and has passed the catalogs up to a name.
//
// On the wire it is "c1." and base64url of: crc32 of the rest, the prefix's
// crc32, stream creation (unix ns), sequence, sixteen horizons, sweeping with the
// name, the number of recent catalogs and each with its version; numbers are
// varints.
type bookmark struct {
	place    place
	horizons [engine.Shards]int64
	recent   []recent // oldest first
	sweeping bool
	swept    string // name up to which the search has passed
}

type recent struct {
	catalog string
	version engine.Version
}

// A bookmark remembers the last versions of so many catalogs, if their names
// are not too long altogether.
const (
	maxRecent      = 32
	maxRecentBytes = 1 << 10
)

// horizonSlack is how much older than the newest one told a version of another
// catalog may be that was not told yet: by the time from its reservation to its
// commit, by a relay that is late, by clocks that differ.
const horizonSlack = 15 * time.Minute

const bookmarkMark = "c1."

// told notes that a catalog was told up to a version.
func (b *bookmark) told(catalog string, v engine.Version) {
	if n := len(b.recent); n > 0 && b.recent[n-1].catalog == catalog {
		b.recent[n-1].version = v
		return
	}
	b.recent = slices.DeleteFunc(b.recent, func(r recent) bool { return r.catalog == catalog })
	b.recent = append(b.recent, recent{catalog, v})
	bytes := 0
	for i := len(b.recent) - 1; i >= 0; i-- {
		if bytes += len(b.recent[i].catalog) + 12; bytes > maxRecentBytes || len(b.recent)-i > maxRecent {
			b.recent = slices.Delete(b.recent, 0, i+1)
			break
		}
	}
}

// reached notes an event that was told whole. Its first version counts, not its
// last: what came between the two, of other catalogs, may be told after it.
func (b *bookmark) reached(ev *engine.Event) {
	h := &b.horizons[engine.Shard(ev.Catalog)]
	*h = max(*h, ev.First.Sec)
}

// search begins a search for what was not told, from a place in the stream on.
func (b *bookmark) search(from place) { b.place, b.sweeping, b.swept = from, true, "" }

// floor is the version of a catalog up to which everything was told, unless
// recent knows better.
func (b *bookmark) floor(catalog string) engine.Version {
	sec := b.horizons[engine.Shard(catalog)] - int64(horizonSlack/time.Second)
	if sec <= 0 {
		return engine.Version{}
	}
	return engine.Version{Sec: sec, Seq: engine.MaxSeq}
}

func (b *bookmark) encode(prefix string) string {
	out := make([]byte, 4, 512)
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE([]byte(prefix)))
	var created uint64
	if !b.place.created.IsZero() {
		created = uint64(b.place.created.UnixNano())
	}
	out = binary.AppendUvarint(out, created)
	out = binary.AppendUvarint(out, b.place.seq)
	for _, h := range b.horizons {
		out = binary.AppendUvarint(out, uint64(h))
	}
	if b.sweeping {
		out = appendName(append(out, 1), b.swept)
	} else {
		out = append(out, 0)
	}
	out = binary.AppendUvarint(out, uint64(len(b.recent)))
	for _, r := range b.recent {
		out = appendName(out, r.catalog)
		out = binary.AppendUvarint(out, uint64(r.version.Sec))
		out = binary.AppendUvarint(out, uint64(r.version.Seq))
	}
	binary.BigEndian.PutUint32(out, crc32.ChecksumIEEE(out[4:]))
	return bookmarkMark + base64.RawURLEncoding.EncodeToString(out)
}

func appendName(out []byte, name string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(name))), name...)
}

func invalidCursor(format string, args ...any) error {
	return engine.Invalid("invalid_cursor", "cursor", format, args...)
}

// parseBookmark is the inverse of encode. A cursor comes from outside: every
// field is checked. The error is an *engine.InvalidError with code
// "invalid_cursor".
func parseBookmark(s, prefix string) (*bookmark, error) {
	if len(s) > MaxCursorBytes {
		return nil, invalidCursor("the cursor has %d bytes, at most %d are allowed", len(s), MaxCursorBytes)
	}
	text, ok := strings.CutPrefix(s, bookmarkMark)
	if !ok {
		return nil, invalidCursor("%.50q is not a cursor of many catalogs: use the one that an item of such a watch had", s)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 8 || binary.BigEndian.Uint32(raw) != crc32.ChecksumIEEE(raw[4:]) {
		return nil, invalidCursor("the cursor is damaged: use the one that an item had, whole and unchanged")
	}
	if binary.BigEndian.Uint32(raw[4:]) != crc32.ChecksumIEEE([]byte(prefix)) {
		return nil, invalidCursor("the cursor is of a watch with another prefix: go on with that one")
	}
	f := fields{rest: raw[8:]}
	b := &bookmark{}
	if ns := f.number(1<<63 - 1); ns != 0 {
		b.place.created = time.Unix(0, int64(ns)).UTC()
	}
	b.place.seq = f.number(1<<64 - 1)
	for i := range b.horizons {
		b.horizons[i] = int64(f.number(9_999_999_999))
	}
	if b.sweeping = f.number(1) == 1; b.sweeping {
		b.swept = f.name()
	}
	for range f.number(maxRecent) {
		r := recent{catalog: f.name()}
		r.version = engine.Version{Sec: int64(f.number(9_999_999_999)), Seq: uint32(f.number(engine.MaxSeq))}
		if f.bad || engine.ValidateCatalog(r.catalog) != nil || !r.version.Valid() {
			f.bad = true
			break
		}
		b.recent = append(b.recent, r)
	}
	if f.bad || len(f.rest) > 0 {
		return nil, invalidCursor("the cursor is not one of this version of Lake")
	}
	return b, nil
}

// fields reads the fields of a bookmark.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) number(most uint64) uint64 {
	n, k := binary.Uvarint(f.rest)
	if k <= 0 || n > most {
		f.bad = true
		return 0
	}
	f.rest = f.rest[k:]
	return n
}

func (f *fields) name() string {
	n := f.number(engine.MaxCatalogBytes)
	if f.bad || n > uint64(len(f.rest)) {
		f.bad = true
		return ""
	}
	name := string(f.rest[:n])
	f.rest = f.rest[n:]
	return name
}
