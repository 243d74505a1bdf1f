package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// Keys of the index. The first byte is the table. All integers in keys are big
// endian, so that keys sort like what they hold; names of catalogs have no
// control characters, so that a zero byte ends them.
//
//	F                                  format of the index, 1 byte
//	E                                  1 when the outbox is written
//	S shard                            the shard itself
//	h name                             head of a catalog
//	r name 00 version(8)               run of the live log, under its last version
//	s name 00 version(8)               registered snapshot, under its stop
//	p shard segment(32)                plan of a segment
//	u shard segment(32)                undecided segment: time of its pre-commit
//	x shard time(8) segment(32)        decided segment: its plan may go planTTL after the time
//	f shard segment(32)                runs that a segment has in the live log
//	g shard time(8) segment(32)        segment without such runs, since
//	d shard time(8) name 00 start(8) stop(8)   dropped snapshot, since
//	o shard number(8)                  outbox
//	i name 00 id                       idempotency id of a catalog
//	y shard time(8) name 00 id         its receipt may go after the time
//
//	shard    1 byte, 0 to 15
//	version  second << 20 | seq
//	time     unix milliseconds
//	segment  epoch(8) unix(8) writer(8 characters) n(8)
const (
	tableFormat    = 'F'
	tableEvents    = 'E'
	tableShard     = 'S'
	tableHead      = 'h'
	tableRun       = 'r'
	tableSnapshot  = 's'
	tablePlan      = 'p'
	tableUndecided = 'u'
	tableDecided   = 'x'
	tableRefs      = 'f'
	tableGarbage   = 'g'
	tableDropped   = 'd'
	tableOutbox    = 'o'
	tableID        = 'i'
	tableReceipt   = 'y'
)

const (
	writerBytes  = 8
	segmentBytes = 8 + 8 + writerBytes + 8
	seqBits      = 20 // of a version; MaxSeq fits
)

func keyFormat() []byte { return []byte{tableFormat} }

func keyEvents() []byte { return []byte{tableEvents} }

func keyShard(shard int) []byte { return []byte{tableShard, byte(shard)} }

func keyHead(catalog string) []byte {
	return append(append(make([]byte, 0, 1+len(catalog)), tableHead), catalog...)
}

func catalogOfHead(key []byte) string { return string(key[1:]) }

func keyRun(catalog string, last engine.Version) []byte { return keyOf(tableRun, catalog, last) }

func keySnapshot(catalog string, stop engine.Version) []byte {
	return keyOf(tableSnapshot, catalog, stop)
}

func keyOf(table byte, catalog string, v engine.Version) []byte {
	b := make([]byte, 0, 1+len(catalog)+1+8)
	b = append(append(append(b, table), catalog...), 0)
	return binary.BigEndian.AppendUint64(b, packVersion(v))
}

// versionOfKey is the version at the end of a key of a run or snapshot.
func versionOfKey(key []byte) engine.Version {
	if len(key) < 8 {
		return engine.Version{}
	}
	return unpackVersion(binary.BigEndian.Uint64(key[len(key)-8:]))
}

// endOf is the first key behind all versions of a catalog in a table.
func endOf(table byte, catalog string) []byte {
	return append(append(append(make([]byte, 0, 2+len(catalog)), table), catalog...), 1)
}

func keyPlan(shard int, s engine.SegmentID) []byte { return keySegment(tablePlan, shard, s) }

func keyUndecided(shard int, s engine.SegmentID) []byte {
	return keySegment(tableUndecided, shard, s)
}

func keyRefs(shard int, s engine.SegmentID) []byte { return keySegment(tableRefs, shard, s) }

func keyDecided(shard int, at int64, s engine.SegmentID) []byte {
	return keyTimed(tableDecided, shard, at, s)
}

func keyGarbage(shard int, since int64, s engine.SegmentID) []byte {
	return keyTimed(tableGarbage, shard, since, s)
}

func keySegment(table byte, shard int, s engine.SegmentID) []byte {
	return appendSegmentKey(append(make([]byte, 0, 2+segmentBytes), table, byte(shard)), s)
}

func keyTimed(table byte, shard int, at int64, s engine.SegmentID) []byte {
	b := append(make([]byte, 0, 2+8+segmentBytes), table, byte(shard))
	return appendSegmentKey(binary.BigEndian.AppendUint64(b, uint64(max(0, at))), s)
}

func keyOutbox(shard int, number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tableOutbox, byte(shard)}, number)
}

func keyID(catalog, id string) []byte {
	return appendID(append(make([]byte, 0, 2+len(catalog)+len(id)), tableID), catalog, id)
}

func keyReceipt(shard int, until int64, catalog, id string) []byte {
	b := append(make([]byte, 0, 2+8+1+len(catalog)+len(id)), tableReceipt, byte(shard))
	return appendID(binary.BigEndian.AppendUint64(b, uint64(max(0, until))), catalog, id)
}

func appendID(b []byte, catalog, id string) []byte {
	return append(append(append(b, catalog...), 0), id...)
}

// idOfReceipt is the catalog and the id in a receipt's key.
func idOfReceipt(key []byte) (catalog, id string, err error) {
	if len(key) > 10 {
		if name, id, ok := strings.Cut(string(key[10:]), "\x00"); ok {
			return name, id, nil
		}
	}
	return "", "", fmt.Errorf("%w: the index has the key %x, which names no id", engine.ErrDamaged, key)
}

// tableOf gives the bounds of a shard's part of a table.
func tableOf(table byte, shard int) (from, to []byte) {
	return []byte{table, byte(shard)}, []byte{table, byte(shard) + 1}
}

// numberOfKey is the integer behind table and shard.
func numberOfKey(key []byte) uint64 {
	if len(key) < 10 {
		return 0
	}
	return binary.BigEndian.Uint64(key[2:])
}

func appendSegmentKey(b []byte, s engine.SegmentID) []byte {
	b = binary.BigEndian.AppendUint64(b, s.Epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Unix))
	b = append(b, s.Writer...)
	return binary.BigEndian.AppendUint64(b, s.N)
}

// segmentOfKey is the segment at the end of a key.
func segmentOfKey(key []byte) (engine.SegmentID, error) {
	if len(key) < segmentBytes {
		return engine.SegmentID{}, fmt.Errorf("%w: the index has the key %x, which names no segment", engine.ErrDamaged, key)
	}
	b := key[len(key)-segmentBytes:]
	return engine.SegmentID{
		Epoch:  binary.BigEndian.Uint64(b),
		Unix:   int64(binary.BigEndian.Uint64(b[8:])),
		Writer: string(b[16 : 16+writerBytes]),
		N:      binary.BigEndian.Uint64(b[16+writerBytes:]),
	}, nil
}

// checkSegment refuses names that the keys cannot hold. No writer makes them.
func checkSegment(s engine.SegmentID) error {
	if s.Unix < 0 || len(s.Writer) != writerBytes {
		return fmt.Errorf("%w: %s is not the name of a segment", engine.ErrInvalid, s)
	}
	return nil
}

// checkCatalog refuses names that the keys cannot hold. Validation has refused
// them long before.
func checkCatalog(name string) error {
	if name == "" || len(name) > engine.MaxCatalogBytes || strings.ContainsAny(name, "\x00\x01") {
		return fmt.Errorf("%w: %q is not the name of a catalog", engine.ErrInvalid, name)
	}
	return nil
}

func checkID(id string) error {
	if len(id) > engine.MaxID {
		return fmt.Errorf("%w: an id of %d bytes, at most %d are allowed", engine.ErrInvalid, len(id), engine.MaxID)
	}
	return nil
}

// packVersion keeps the order. What lies outside the range of versions goes
// to its ends.
func packVersion(v engine.Version) uint64 {
	const maxSec = 1<<(64-seqBits-1) - 1
	if v.Sec < 0 {
		return 0
	}
	if v.Sec > maxSec {
		return 1<<63 - 1
	}
	return uint64(v.Sec)<<seqBits | uint64(min(v.Seq, 1<<seqBits-1))
}

func unpackVersion(u uint64) engine.Version {
	return engine.Version{Sec: int64(u >> seqBits), Seq: uint32(u & (1<<seqBits - 1))}
}

// successor is the least key that is greater than every key with the prefix;
// nil when there is none.
func successor(prefix []byte) []byte {
	b := bytes.Clone(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}
