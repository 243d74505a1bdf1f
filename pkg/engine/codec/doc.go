// Package codec reads and writes the frame, the one unit of storage: a segment,
// a snapshot and a history pack are sequences of frames and nothing else. A frame
// names its catalog and its versions and carries its own checksum, so each can be
// read alone by a ranged GET, and a bucket of them is enough to rebuild an index.
//
// Format 1, all fixed-width integers little endian:
//
//	offset  bytes  field
//	0       4      magic, "LAKE"
//	4       1      format, 1
//	5       1      kind: 1 run, 2 tombstone, 3 snapshot, 4 pack
//	6       1      flags
//	               bits 0-1  compression of the payload: 0 none, 1 S2 block, 2 zstd
//	               bit  2    payload encrypted under the master key named by key id
//	               bit  3    more: another frame follows in this object
//	               bits 4-7  zero
//	7       4      key id, zero when not encrypted
//	11      4      header length H
//	15      H      header
//	15+H    4      payload length P, as stored
//	19+H    P      payload
//	19+H+P  4      CRC-32C (Castagnoli) of every byte before it
//
// The header, where "uvarint" is the shortest LEB128 form of encoding/binary and
// "string" a uvarint length followed by that many bytes:
//
//	catalog         string
//	first seconds   uvarint   version of the first delta, Unix seconds
//	first sequence  uvarint   and its number within that second, ≤ 2³²-1
//	n               uvarint   versions covered, contiguous from first, ≤ 2³²-1
//	writer          string
//	author          string
//	epoch           uvarint
//	created         uvarint   zigzag, milliseconds since the Unix epoch
//	flags           uvarint   the engine's own bits, ≤ 2³²-1
//	payload size    uvarint   bytes of the payload before compression
//	ids             uvarint   count, then for each
//	                          string    the id a client gave
//	                          16 bytes  its fingerprint
//
// The header ends exactly there. Every field has one spelling, so an uncompressed
// frame has exactly one encoding: Decode refuses any other.
//
// Magic, lengths and checksum stand at the same place in every format to come;
// only the inside of the header and the meaning of kind and flags may change.
// A reader can therefore always tell a damaged frame ([ErrDamaged]) from an
// intact one that a newer version wrote ([ErrFormat]). Format 1 is frozen at the
// first release; the frames in testdata/v1 must decode for ever.
//
// Equal frames encode to equal bytes within one build of this package. Across
// releases of the compressor they need not: equality of stored objects is
// equality of what they decode to.
package codec
