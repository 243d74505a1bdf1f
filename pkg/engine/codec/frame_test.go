package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	update = flag.Bool("update", false, "rewrite testdata/v1 (never once format 1 is released: add frames, change none)")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random tests")
)

type sample struct {
	name  string
	frame Frame
	opts  Options
	comp  Compression // what the payload must end up as
}

// samples has every kind, every compression and every field at its edges.
func samples() []sample {
	text := []byte(strings.Repeat(`{"name":"Alice","age":30,"tags":["a","b"]}`, 20))
	noise := make([]byte, 300)
	r := rand.New(rand.NewPCG(1, 2)) // constant: golden
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var fp [16]byte
	copy(fp[:], "0123456789abcdef")
	return []sample{
		{"run", Frame{Header{Kind: KindRun, Catalog: "users", First: Version{1_700_000_000, 1}, N: 1, Writer: "abcdefgh", Author: "alice",
			Epoch: 3, ID: []ID{{"order-1", fp}}, Created: 1_700_000_000_123, Flags: 1, More: true}, []byte(`{"name":"Alice"}`)}, Options{}, None},
		{"run-s2", Frame{Header{Kind: KindRun, Catalog: "中文", First: Version{1_700_000_000, 999_999}, N: 1000, Writer: "abcdefgh", Epoch: 3,
			Created: 1_700_000_000_123}, text}, Options{Compression: S2}, S2},
		{"run-ids", Frame{Header{Kind: KindRun, Catalog: "Users", First: Version{1, 1}, N: 3, Writer: "w",
			ID: []ID{{"", [16]byte{}}, {"a", fp}, {strings.Repeat("x", 128), fp}}}, text}, Options{Compression: Zstd}, Zstd},
		{"tombstone", Frame{Header{Kind: KindTombstone, Writer: "abcdefgh", Epoch: 7, Created: -1}, nil}, Options{Compression: S2}, None},
		{"snapshot-zstd", Frame{Header{Kind: KindSnapshot, Catalog: "users", First: Version{1_700_000_000, 2}, N: 1}, text}, Options{Compression: Zstd}, Zstd},
		{"pack-zstd", Frame{Header{Kind: KindPack, Catalog: "users", First: Version{1_700_000_000, 2}, N: 40, Author: "bob"}, text}, Options{Compression: Zstd}, Zstd},
		{"small-stays-plain", Frame{Header{Kind: KindSnapshot, Catalog: "c"}, []byte(strings.Repeat("a", 255))}, Options{Compression: Zstd}, None},
		{"noise-stays-plain-s2", Frame{Header{Kind: KindPack, Catalog: "c"}, noise}, Options{Compression: S2}, None},
		{"noise-stays-plain-zstd", Frame{Header{Kind: KindPack, Catalog: "c"}, noise}, Options{Compression: Zstd}, None},
		{"extremes", Frame{Header{Kind: KindPack, Catalog: "\x00\xff", First: Version{math.MaxInt64, math.MaxUint32}, N: math.MaxUint32,
			Writer: "w", Author: "a", Epoch: math.MaxUint64, Created: math.MinInt64, Flags: math.MaxUint32}, []byte("x")}, Options{}, None},
		{"empty", Frame{Header{Kind: KindRun}, nil}, Options{Compression: Zstd, MinCompress: -1}, None},
	}
}

func encode(t testing.TB, f *Frame, o Options) []byte {
	t.Helper()
	b, err := Append(nil, f, o)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return b
}

// equal treats a nil and an empty payload as the same: both are no bytes.
func equal(a, b Frame) bool {
	return bytes.Equal(a.Payload, b.Payload) && reflect.DeepEqual(a.Header, b.Header)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			prefix := []byte("prefix")
			b, err := Append(bytes.Clone(prefix), &s.frame, s.opts)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(b, prefix) {
				t.Fatalf("Append changed what was in dst: %q", b[:len(prefix)])
			}
			b = b[len(prefix):]
			if got := Compression(b[offFlags] & flagCompression); got != s.comp {
				t.Errorf("compression: got %d, want %d", got, s.comp)
			}
			got, n, err := Decode(append(bytes.Clone(b), "next"...), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if n != len(b) || !equal(got, s.frame) {
				t.Errorf("got %+v (%d bytes), want %+v (%d bytes)", got, n, s.frame, len(b))
			}
		})
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join("testdata", "v1", s.name+".frame")
			if *update {
				if err := os.WriteFile(name, encode(t, &s.frame, s.opts), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got, n, err := Decode(b, Options{})
			if err != nil || n != len(b) || !equal(got, s.frame) {
				t.Fatalf("got %+v (%d bytes, %v), want %+v (%d bytes)", got, n, err, s.frame, len(b))
			}
			// Compressed bytes belong to the compressor's release, not to the format.
			if s.comp == None {
				if got := encode(t, &s.frame, s.opts); !bytes.Equal(got, b) {
					t.Errorf("Append: got %x, want %x", got, b)
				}
			}
		})
	}
}

// TestLayout spells one frame out byte by byte, as drawn in doc.go.
func TestLayout(t *testing.T) {
	t.Parallel()
	got := encode(t, &Frame{Header{Kind: KindRun, Catalog: "ab", First: Version{300, 1}, N: 2, Writer: "w", Author: "", Epoch: 5,
		ID: []ID{{"i", [16]byte{15: 9}}}, Created: -1, Flags: 128, More: true}, []byte("xyz")}, Options{})
	want := []byte("LAKE\x01\x01\x08" + "\x00\x00\x00\x00" + "\x22\x00\x00\x00" +
		"\x02ab" + "\xac\x02" + "\x01" + "\x02" + "\x01w" + "\x00" + "\x05" + "\x01" + "\x80\x01" + "\x03" +
		"\x01" + "\x01i" + strings.Repeat("\x00", 15) + "\x09" +
		"\x03\x00\x00\x00" + "xyz")
	want = binary.LittleEndian.AppendUint32(want, crc32.Checksum(want, crc32.MakeTable(crc32.Castagnoli)))
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// TestDeterministic holds that pooled encoders carry nothing from one call to the next.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(*seed, 0))
	t.Logf("-seed=%d", *seed)
	type job struct {
		f    Frame
		o    Options
		want []byte
	}
	var jobs []job
	for range 40 {
		p := make([]byte, r.IntN(300_000))
		for i := range p {
			p[i] = "abcdefgh"[r.IntN(1+r.IntN(8))]
		}
		for _, c := range []Compression{S2, Zstd} {
			j := job{f: Frame{Header{Kind: KindPack, Catalog: "c"}, p}, o: Options{Compression: c}}
			j.want = encode(t, &j.f, j.o)
			jobs = append(jobs, j)
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		order := rand.New(rand.NewPCG(*seed, uint64(w+1))).Perm(len(jobs))
		wg.Go(func() {
			for _, i := range order {
				j := &jobs[i]
				got, err := Append(nil, &j.f, j.o)
				if err != nil || !bytes.Equal(got, j.want) {
					t.Errorf("job %d: other bytes than before (%v)", i, err)
				}
				f, _, err := Decode(got, Options{})
				if err != nil || !equal(f, j.f) {
					t.Errorf("job %d: decoded to another frame (%v)", i, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	ok := Header{Kind: KindRun, Catalog: "c"}
	for _, c := range []struct {
		name string
		edit func(*Frame, *Options)
		want error
	}{
		{"kind 0", func(f *Frame, _ *Options) { f.Kind = 0 }, ErrKind},
		{"kind 5", func(f *Frame, _ *Options) { f.Kind = 5 }, ErrKind},
		{"negative second", func(f *Frame, _ *Options) { f.First.Sec = -1 }, nil},
		{"compression 3", func(_ *Frame, o *Options) { o.Compression = 3 }, nil},
		{"payload", func(f *Frame, o *Options) { f.Payload = make([]byte, 11); o.MaxPayload = 10 }, ErrTooLarge},
		{"default ceiling", func(f *Frame, _ *Options) { f.Payload = make([]byte, DefaultMaxPayload+1) }, ErrTooLarge},
		{"header", func(f *Frame, _ *Options) { f.Author = strings.Repeat("a", MaxHeader) }, ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, o := Frame{ok, []byte("x")}, Options{}
			c.edit(&f, &o)
			got, err := Append([]byte("dst"), &f, o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if string(got) != "dst" {
				t.Errorf("dst: got %q, want it unchanged", got)
			}
		})
	}
}
