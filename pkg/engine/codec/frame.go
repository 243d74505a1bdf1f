package codec

import (
	"errors"
	"fmt"
)

// Kind says what a frame holds. The numbers are frozen with format 1.
type Kind uint8

const (
	KindRun       Kind = 1 // a run, in a segment
	KindTombstone Kind = 2 // stands in a segment's place: that segment never was
	KindSnapshot  Kind = 3 // a document at a version
	KindPack      Kind = 4 // a run with its outcomes, in a history pack
)

// String returns the kind's name, or "kind(n)".
func (k Kind) String() string {
	switch k {
	case KindRun:
		return "run"
	case KindTombstone:
		return "tombstone"
	case KindSnapshot:
		return "snapshot"
	case KindPack:
		return "pack"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Version is a version of a catalog: Unix seconds, and a number within the second.
type Version struct {
	Sec int64 // ≥ 0
	Seq uint32
}

// ID is the idempotency id a client gave to a run.
type ID struct {
	ID          string
	Fingerprint [16]byte // the first 16 bytes of SHA-256 over path, type and body
}

// Header is everything a frame says about its payload.
type Header struct {
	Kind    Kind
	Catalog string
	First   Version // of the first delta; a snapshot's own version
	N       uint32  // versions covered, contiguous from First
	Writer  string  // the process that wrote it
	Author  string  // who asked for it
	Epoch   uint64
	ID      []ID
	Created int64  // milliseconds since the Unix epoch
	Flags   uint32 // the engine's own bits, carried as they are

	// More says that another frame follows in the same object. A writer that sets
	// it on every frame but the last lets [Frames] notice an object that was cut
	// exactly between two frames, which no single frame's checksum can show.
	More bool
}

// Frame is a header with its payload, decompressed.
type Frame struct {
	Header
	Payload []byte
}

// Compression is how a payload is stored.
type Compression uint8

const (
	None Compression = 0
	S2   Compression = 1 // an S2 block: for segments, which a writer waits for
	Zstd Compression = 2 // zstd, fastest level: for snapshots and packs
)

const (
	// DefaultMinCompress is the smallest payload, in bytes, worth compressing.
	DefaultMinCompress = 256
	// DefaultMaxPayload holds a document of 64 MiB with what is stored beside it.
	DefaultMaxPayload = 68 << 20
	// MaxHeader bounds the header in bytes: 10,000 ids of 128 bytes fit twice.
	MaxHeader = 4 << 20
)

// Options bound and tune both directions; the zero value is ready to use.
type Options struct {
	Compression Compression // Append only; a payload that does not shrink is stored plain
	MinCompress int         // bytes; smaller payloads are stored plain; 0 means DefaultMinCompress
	MaxPayload  int64       // bytes before compression, in and out; 0 means DefaultMaxPayload
}

func (o Options) minCompress() int {
	if o.MinCompress == 0 {
		return DefaultMinCompress
	}
	return o.MinCompress
}

func (o Options) maxPayload() uint64 {
	if o.MaxPayload <= 0 {
		return DefaultMaxPayload
	}
	return min(uint64(o.MaxPayload), maxStored)
}

var (
	// ErrDamaged means that the bytes are not a whole, intact frame. It is
	// permanent for these bytes; another copy may be sound.
	ErrDamaged = errors.New("damaged frame")

	// ErrFormat means that the frame is intact but needs a newer version of Lake.
	// ErrKind and ErrFlags are special cases of it.
	ErrFormat = errors.New("unknown frame format")
	ErrKind   = fmt.Errorf("%w: unknown kind", ErrFormat)
	ErrFlags  = fmt.Errorf("%w: unknown flags", ErrFormat)

	// ErrEncrypted means that the frame is intact and its payload is encrypted,
	// but no key ring is configured.
	ErrEncrypted = errors.New("encrypted frame: configure the key ring that wrote it")

	// ErrTooLarge means that a payload or header exceeds Options.MaxPayload or
	// MaxHeader. Nothing of that size was allocated.
	ErrTooLarge = errors.New("frame too large")
)

const (
	magic  = "LAKE"
	format = 1

	offFormat  = 4
	offKind    = 5
	offFlags   = 6
	offKeyID   = 7
	offHeadLen = 11
	offHeader  = 15

	lenSize = 4 // of each length field
	crcSize = 4

	minFrame = offHeader + lenSize + crcSize

	flagCompression = 0b0000_0011
	flagEncrypted   = 0b0000_0100
	flagMore        = 0b0000_1000
	flagsKnown      = flagCompression | flagEncrypted | flagMore

	maxStored = 1<<32 - 1 // what a length field can say
)
