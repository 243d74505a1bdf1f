package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// reseal makes the checksum of the frame at the start of b true again, so that a
// test gets past it. It reports whether b has the lengths of a frame.
func reseal(b []byte) bool {
	if len(b) < minFrame {
		return false
	}
	head := uint64(binary.LittleEndian.Uint32(b[offHeadLen:]))
	if head > uint64(len(b)-minFrame) {
		return false
	}
	at := offHeader + int(head)
	pay := uint64(binary.LittleEndian.Uint32(b[at:]))
	if pay > uint64(len(b)-minFrame)-head {
		return false
	}
	end := at + lenSize + int(pay)
	binary.LittleEndian.PutUint32(b[end:], crc32.Checksum(b[:end], castagnoli))
	return true
}

// build lays a frame out by hand: what Append would never write.
func build(flags byte, key uint32, header, payload []byte) []byte {
	b := append([]byte(magic), format, byte(KindRun), flags)
	b = binary.LittleEndian.AppendUint32(b, key)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// plainHeader is a valid header that announces size bytes of payload.
func plainHeader(size uint64) []byte {
	h := appendHeader(nil, &Frame{Header: Header{Catalog: "c"}})
	h = h[:len(h)-2] // size 0, no ids
	h = binary.AppendUvarint(h, size)
	return append(h, 0)
}

func TestFlipEveryByte(t *testing.T) {
	t.Parallel()
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			b := encode(t, &s.frame, s.opts)
			for i := range b {
				for mask := 1; mask < 256; mask++ {
					b[i] ^= byte(mask)
					if f, _, err := Decode(b, Options{}); !errors.Is(err, ErrDamaged) {
						t.Fatalf("byte %d ^ %#02x: got %+v, %v, want %v", i, mask, f, err, ErrDamaged)
					}
					b[i] ^= byte(mask)
				}
			}
		})
	}
}

func TestCutAtEveryLength(t *testing.T) {
	t.Parallel()
	for _, s := range samples() {
		b := encode(t, &s.frame, s.opts)
		for n := range b {
			if f, _, err := Decode(b[:n], Options{}); !errors.Is(err, ErrDamaged) {
				t.Fatalf("%s cut at %d: got %+v, %v, want %v", s.name, n, f, err, ErrDamaged)
			}
		}
	}
}

// object is a whole object of every sample frame, More set as a writer would.
func object(t *testing.T) ([]byte, []Located) {
	var b []byte
	var want []Located
	all := samples()
	for i, s := range all {
		s.frame.More = i < len(all)-1
		off := len(b)
		var err error
		if b, err = Append(b, &s.frame, s.opts); err != nil {
			t.Fatal(err)
		}
		want = append(want, Located{s.frame, int64(off), int64(len(b) - off)})
	}
	return b, want
}

func walk(b []byte) (got []Located, err error) {
	for l, e := range Frames(b, Options{}) {
		if e != nil {
			return got, e
		}
		got = append(got, l)
	}
	return got, nil
}

func same(a, b Located) bool { return a.Off == b.Off && a.Len == b.Len && equal(a.Frame, b.Frame) }

func TestFrames(t *testing.T) {
	t.Parallel()
	b, want := object(t)
	got, err := walk(b)
	if err != nil || !slices.EqualFunc(got, want, same) {
		t.Fatalf("got %d frames, %v, want %d", len(got), err, len(want))
	}
	if got, err := walk(nil); err != nil || len(got) != 0 {
		t.Errorf("empty object: got %d frames, %v, want none", len(got), err)
	}
	for range Frames(b, Options{}) {
		break // a walk may be left early
	}
}

// TestFramesDamage: whatever byte is flipped and wherever the object is cut, the
// walk ends in an error, and what it gave before that is a true prefix.
func TestFramesDamage(t *testing.T) {
	t.Parallel()
	b, want := object(t)
	expect := func(what string, at int, damaged []byte) {
		t.Helper()
		got, err := walk(damaged)
		if !errors.Is(err, ErrDamaged) || len(got) >= len(want) || !slices.EqualFunc(got, want[:len(got)], same) {
			t.Fatalf("%s at %d: got %d frames, %v, want a true prefix and %v", what, at, len(got), err, ErrDamaged)
		}
	}
	for i := range b {
		for _, mask := range []byte{1, 0x80, 0xff} {
			b[i] ^= mask
			expect("flip", i, b)
			b[i] ^= mask
		}
		if i > 0 {
			expect("cut", i, b[:i])
		}
	}
	if _, err := walk(append(bytes.Clone(b), 'L')); !errors.Is(err, ErrDamaged) {
		t.Errorf("one byte behind the last frame: got %v, want %v", err, ErrDamaged)
	}
}

// TestRefuses: intact frames of a newer version, and headers nobody writes.
func TestRefuses(t *testing.T) { // alone: it counts what the process allocates
	edit := func(off int, v byte) []byte {
		b := build(0, 0, plainHeader(1), []byte("x"))
		b[off] = v
		reseal(b)
		return b
	}
	zeros := make([]byte, 1000)
	ids := func(count uint64, rest ...byte) []byte {
		h := plainHeader(1)
		return append(binary.AppendUvarint(h[:len(h)-1], count), rest...)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zipped := z.EncodeAll(zeros, nil)
	s2ed := s2.Encode(nil, zeros)
	s2lie := append(binary.AppendUvarint(nil, 60<<20), s2ed[2:]...)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"format 0", edit(offFormat, 0), ErrFormat},
		{"format 2", edit(offFormat, 2), ErrFormat},
		{"kind 0", edit(offKind, 0), ErrKind},
		{"kind 5", edit(offKind, 5), ErrKind},
		{"compression 3", edit(offFlags, 3), ErrFlags},
		{"flag 4", edit(offFlags, 1<<4), ErrFlags},
		{"flag 7", edit(offFlags, 1<<7), ErrFlags},
		{"encrypted", edit(offFlags, flagEncrypted), ErrEncrypted},
		{"encrypted with key", build(flagEncrypted, 9, []byte("sealed"), []byte("sealed")), ErrEncrypted},
		{"key without encryption", edit(offKeyID, 1), ErrFlags},
		{"huge header", build(0, 0, make([]byte, MaxHeader+1), nil), ErrTooLarge},
		{"empty header", build(0, 0, nil, nil), ErrDamaged},
		{"trailing header byte", build(0, 0, append(plainHeader(1), 0), []byte("x")), ErrDamaged},
		{"long spelling", build(0, 0, append([]byte{0x81, 0x00}, plainHeader(1)[1:]...), []byte("x")), ErrDamaged},
		{"second past int64", build(0, 0, append(append([]byte{0}, bytes.Repeat([]byte{0xff}, 9)...), append([]byte{1}, plainHeader(1)[3:]...)...), []byte("x")), ErrDamaged},
		{"varint past 64 bits", build(0, 0, bytes.Repeat([]byte{0xff}, 40), []byte("x")), ErrDamaged},
		{"more ids than bytes", build(0, 0, ids(1<<40), []byte("x")), ErrDamaged},
		{"id without fingerprint", build(0, 0, ids(1, append([]byte{16}, zeros[:16]...)...), []byte("x")), ErrDamaged},
		{"payload longer than said", build(0, 0, plainHeader(1), []byte("xy")), ErrDamaged},
		{"payload shorter than said", build(0, 0, plainHeader(2), []byte("x")), ErrDamaged},
		{"payload over the ceiling", build(0, 0, plainHeader(1<<40), []byte("x")), ErrTooLarge},
		{"payload of 2^64-1", build(1, 0, plainHeader(1<<64-1), []byte("x")), ErrTooLarge},
		{"s2 of another size", build(1, 0, plainHeader(60<<20), s2ed), ErrDamaged},
		{"s2 that lies about its size", build(1, 0, plainHeader(1000), s2lie), ErrDamaged},
		{"s2 noise", build(1, 0, plainHeader(1000), append(binary.AppendUvarint(nil, 1000), zeros...)), ErrDamaged},
		{"s2 empty", build(1, 0, plainHeader(1), nil), ErrDamaged},
		{"zstd of another size", build(2, 0, plainHeader(60<<20), zipped), ErrDamaged},
		{"zstd cut", build(2, 0, plainHeader(1000), zipped[:len(zipped)-3]), ErrDamaged},
		{"zstd twice", build(2, 0, plainHeader(1000), append(bytes.Clone(zipped), zipped...)), ErrDamaged},
		{"zstd empty", build(2, 0, plainHeader(1), nil), ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f, n, err := Decode(c.b, Options{})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.want) || n != 0 || f.Payload != nil || f.Catalog != "" {
				t.Errorf("got %+v, %d, %v, want nothing and %v", f, n, err, c.want)
			}
			if errors.Is(c.want, ErrFormat) && !errors.Is(err, ErrFormat) {
				t.Errorf("%v is not %v", err, ErrFormat)
			}
			// A first zstd decoder takes some; a lying length here asks for 60 MiB and more.
			if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
				t.Errorf("allocated %d bytes for %d", got, len(c.b))
			}
		})
	}
}

func TestCeiling(t *testing.T) {
	t.Parallel()
	f := Frame{Header{Kind: KindSnapshot, Catalog: "c"}, []byte(strings.Repeat("a", 1<<20))}
	for _, c := range []Compression{None, S2, Zstd} {
		b := encode(t, &f, Options{Compression: c})
		if _, _, err := Decode(b, Options{MaxPayload: 1 << 20}); err != nil {
			t.Errorf("compression %d at the ceiling: %v", c, err)
		}
		if _, _, err := Decode(b, Options{MaxPayload: 1<<20 - 1}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("compression %d over the ceiling: got %v, want %v", c, err, ErrTooLarge)
		}
	}
}
