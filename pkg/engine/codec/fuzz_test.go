package codec

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzDecode feeds arbitrary bytes, once as they are and once with their checksum
// made true, so that the fuzzer reaches what lies behind it. Any frame that comes
// out must go in again, and an uncompressed one has only one spelling.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		b, err := Append(nil, &s.frame, s.opts)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(build(flagEncrypted, 1, []byte("h"), []byte("p")))
	f.Add(build(0, 0, plainHeader(1<<40), nil))
	o := Options{MaxPayload: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		decode(t, b, o)
		b = bytes.Clone(b)
		if reseal(b) {
			decode(t, b, o)
		}
		for l, err := range Frames(b, o) {
			if err == nil && (l.Len < minFrame || l.Off+l.Len > int64(len(b))) {
				t.Fatalf("frame at %d+%d of %d bytes", l.Off, l.Len, len(b))
			}
		}
	})
}

func decode(t *testing.T, b []byte, o Options) {
	got, n, err := Decode(b, o)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrTooLarge) {
			t.Fatalf("untyped error %v", err)
		}
		return
	}
	if n < minFrame || n > len(b) || int64(len(got.Payload)) > o.MaxPayload {
		t.Fatalf("%d bytes of %d, payload of %d", n, len(b), len(got.Payload))
	}
	if Compression(b[offFlags]&flagCompression) == None {
		if again, err := Append(nil, &got, o); err != nil || !bytes.Equal(again, b[:n]) {
			t.Fatalf("two spellings: %x and %x (%v)", b[:n], again, err)
		}
		return
	}
	for _, c := range []Compression{None, S2, Zstd} {
		o.Compression = c
		b, err := Append(nil, &got, o)
		if err != nil {
			t.Fatal(err)
		}
		if again, n, err := Decode(b, o); err != nil || n != len(b) || !equal(again, got) {
			t.Fatalf("got %+v (%v), want %+v", again, err, got)
		}
	}
}
