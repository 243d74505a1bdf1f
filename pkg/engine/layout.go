package engine

import (
	"fmt"
	"strconv"
	"strings"
)

// Object keys are made and parsed here and nowhere else.
//
//	_lake/format.json                                 format version, name, constants
//	_lake/epoch/{n:06}.json                           epoch n exists
//	_lake/epoch/{n:06}.seal.json                      which segments of epoch n count
//	_lake/collected/{ms:013}.json                     up to which index time garbage was collected
//	_lake/loss/{epoch:06}/{object key}.json           which bytes of a damaged object count, accepted in opening the epoch
//	_lake/purge/{enc}/{stop}.json                     a purge at stop whose bytes are not all gone yet
//	wal/{epoch:06}/{unix:010}-{writer}-{n:08}.seg     a segment, or a tombstone in its place
//	{md5[0:4]}/{enc}/snap/{start}~{stop}.snap         the document at stop
//	{md5[0:4]}/{enc}/delta/{start}~{stop}.pack        its deltas (start, stop]
//
// A snapshot and pack {stop}~{stop} are those of a purge.
const (
	formatKey       = "_lake/format.json"
	epochPrefix     = "_lake/epoch/"
	collectedPrefix = "_lake/collected/"
	lossPrefix      = "_lake/loss/"
	purgePrefix     = "_lake/purge/"
	walPrefix       = "wal/"
)

// SegmentID names a segment, the object of one group commit.
type SegmentID struct {
	Epoch  uint64
	Unix   int64  // index time as the writer last saw it, seconds; spreads and orders listings, nothing depends on it
	Writer string // eight lower-case base32 characters, drawn at process start
	N      uint64 // counts from 1 in each writer
}

// Key is the segment's object key.
func (s SegmentID) Key() string {
	b := append(make([]byte, 0, 48), walPrefix...)
	b = appendPadded(b, s.Epoch, 6)
	b = append(b, '/')
	b = appendPadded(b, uint64(s.Unix), 10)
	b = append(b, '-')
	b = append(b, s.Writer...)
	b = append(b, '-')
	b = appendPadded(b, s.N, 8)
	return string(append(b, ".seg"...))
}

// appendPadded appends a number with at least width digits.
func appendPadded(b []byte, n uint64, width int) []byte {
	digits := 1
	for m := n; m >= 10; m /= 10 {
		digits++
	}
	for ; digits < width; digits++ {
		b = append(b, '0')
	}
	return strconv.AppendUint(b, n, 10)
}

// String is the short form that stands in index members:
// "1/1700000000-abcdefgh-1".
func (s SegmentID) String() string {
	b := strconv.AppendUint(make([]byte, 0, 40), s.Epoch, 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, s.Unix, 10)
	b = append(b, '-')
	b = append(b, s.Writer...)
	b = append(b, '-')
	return string(strconv.AppendUint(b, s.N, 10))
}

// IsZero tells whether s names no segment.
func (s SegmentID) IsZero() bool { return s == SegmentID{} }

// ParseSegmentID parses the short form.
func ParseSegmentID(s string) (SegmentID, error) {
	epoch, rest, ok1 := strings.Cut(s, "/")
	unix, rest, ok2 := strings.Cut(rest, "-")
	writer, n, ok3 := strings.Cut(rest, "-")
	if ok1 && ok2 && ok3 && plain(epoch) && plain(unix) && plain(n) {
		if id, ok := makeSegmentID(epoch, unix, writer, n); ok {
			return id, nil
		}
	}
	return SegmentID{}, fmt.Errorf("%q is not the name of a segment", s)
}

// plain tells whether a number is written as String writes it.
func plain(number string) bool {
	return number == "0" || number != "" && number[0] >= '1' && number[0] <= '9'
}

// ParseSegmentKey parses an object key under wal/.
func ParseSegmentKey(key string) (SegmentID, error) {
	rest, ok0 := strings.CutPrefix(key, walPrefix)
	rest, ok1 := strings.CutSuffix(rest, ".seg")
	epoch, rest, ok2 := strings.Cut(rest, "/")
	unix, rest, ok3 := strings.Cut(rest, "-")
	writer, n, ok4 := strings.Cut(rest, "-")
	if ok0 && ok1 && ok2 && ok3 && ok4 {
		if id, ok := makeSegmentID(epoch, unix, writer, n); ok && id.Key() == key {
			return id, nil
		}
	}
	return SegmentID{}, fmt.Errorf("%q is not the key of a segment", key)
}

func makeSegmentID(epoch, unix, writer, n string) (SegmentID, bool) {
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	u, err2 := strconv.ParseInt(unix, 10, 64)
	i, err3 := strconv.ParseUint(n, 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || u < 0 || len(writer) != 8 {
		return SegmentID{}, false
	}
	for _, c := range []byte(writer) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return SegmentID{}, false
		}
	}
	return SegmentID{Epoch: e, Unix: u, Writer: writer, N: i}, true
}

func walEpochPrefix(epoch uint64) string { return fmt.Sprintf("wal/%06d/", epoch) }

func epochKey(n uint64) string { return fmt.Sprintf("%s%06d.json", epochPrefix, n) }

func sealKey(n uint64) string { return fmt.Sprintf("%s%06d.seal.json", epochPrefix, n) }

// parseEpochKey tells the epoch of an epoch object or seal.
func parseEpochKey(key string) (n uint64, seal, ok bool) {
	rest, ok := strings.CutPrefix(key, epochPrefix)
	if !ok {
		return 0, false, false
	}
	num, isSeal := strings.CutSuffix(rest, ".seal.json")
	if !isSeal {
		if num, ok = strings.CutSuffix(rest, ".json"); !ok {
			return 0, false, false
		}
	}
	n, err := strconv.ParseUint(num, 10, 64)
	if err != nil || isSeal && sealKey(n) != key || !isSeal && epochKey(n) != key {
		return 0, false, false
	}
	return n, isSeal, true
}

func collectedKey(ms int64) string { return fmt.Sprintf("%s%013d.json", collectedPrefix, ms) }

// parseCollectedKey tells the unix milliseconds of a record of a collection.
func parseCollectedKey(key string) (ms int64, ok bool) {
	num, ok1 := strings.CutPrefix(key, collectedPrefix)
	num, ok2 := strings.CutSuffix(num, ".json")
	ms, err := strconv.ParseInt(num, 10, 64)
	return ms, ok1 && ok2 && err == nil && collectedKey(ms) == key
}

// SnapshotKey is the object key of the document at stop.
func SnapshotKey(catalog string, start, stop Version) string {
	return CatalogDir(catalog) + "/snap/" + start.String() + "~" + stop.String() + ".snap"
}

// PackKey is the object key of the deltas (start, stop].
func PackKey(catalog string, start, stop Version) string {
	return CatalogDir(catalog) + "/delta/" + start.String() + "~" + stop.String() + ".pack"
}

func purgeKey(catalog string, at Version) string {
	return purgePrefix + EncodeCatalog(catalog) + "/" + at.String() + ".json"
}

// parsePurgeKey tells whose purge a record is about.
func parsePurgeKey(key string) (catalog string, at Version, ok bool) {
	rest, ok1 := strings.CutPrefix(key, purgePrefix)
	rest, ok2 := strings.CutSuffix(rest, ".json")
	enc, v, ok3 := strings.Cut(rest, "/")
	if !ok1 || !ok2 || !ok3 {
		return "", Version{}, false
	}
	catalog, err1 := DecodeCatalog(enc)
	at, err2 := ParseVersion(v)
	return catalog, at, err1 == nil && err2 == nil && purgeKey(catalog, at) == key
}

// parseHistoryKey tells up to which version a catalog's snapshot or pack goes.
func parseHistoryKey(catalog, key string) (s Snapshot, ok bool) {
	rest, ok := strings.CutPrefix(key, CatalogDir(catalog)+"/")
	if !ok {
		return Snapshot{}, false
	}
	name, isSnap := strings.CutPrefix(rest, "snap/")
	if isSnap {
		name, ok = strings.CutSuffix(name, ".snap")
	} else if name, ok = strings.CutPrefix(rest, "delta/"); ok {
		name, ok = strings.CutSuffix(name, ".pack")
	}
	from, to, both := strings.Cut(name, "~")
	start, err1 := ParseVersion(from)
	stop, err2 := ParseVersion(to)
	s = Snapshot{Start: start, Stop: stop}
	return s, ok && both && err1 == nil && err2 == nil && (SnapshotKey(catalog, start, stop) == key || PackKey(catalog, start, stop) == key)
}

// ParseSnapshotKey tells whose snapshot stands under a key.
func ParseSnapshotKey(key string) (catalog string, start, stop Version, err error) {
	parts := strings.Split(key, "/")
	if len(parts) == 4 && parts[2] == "snap" {
		name, ok := strings.CutSuffix(parts[3], ".snap")
		a, b, ok2 := strings.Cut(name, "~")
		if ok && ok2 {
			catalog, err = DecodeCatalog(parts[1])
			if err == nil {
				start, err = ParseVersion(a)
			}
			if err == nil {
				stop, err = ParseVersion(b)
			}
			if err == nil && SnapshotKey(catalog, start, stop) == key {
				return catalog, start, stop, nil
			}
		}
	}
	return "", Version{}, Version{}, fmt.Errorf("%q is not the key of a snapshot", key)
}
