package codec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// segmentOf is an object of three frames with their places. The author of the second is
// spelled like a frame.
func segmentOf(t *testing.T) (b []byte, ends []int) {
	t.Helper()
	trap, err := Append(nil, &Frame{Header: Header{Kind: KindRun, Catalog: "trap", N: 1}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		f := Frame{Header: Header{Kind: KindRun, Catalog: fmt.Sprintf("c%d", i), First: Version{Sec: 1_700_000_000, Seq: uint32(i + 1)}, N: 1, Writer: "deadbeef", More: i < 2},
			Payload: []byte(strings.Repeat("x", 600))}
		if i == 1 {
			f.Author = string(trap)
		}
		if b, err = Append(b, &f, Options{}); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(b))
	}
	return b, ends
}

// Whatever byte is flipped, the frames beside it are found; and what is found covers
// the object without a gap.
func TestSalvage(t *testing.T) {
	t.Parallel()
	whole, ends := segmentOf(t)
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		hit := slices.IndexFunc(ends, func(end int) bool { return i < end })
		var found []string
		at := int64(0)
		for f, err := range Salvage(b, Options{}) {
			if f.Off != at {
				t.Fatalf("byte %d: got a place at %d, want %d", i, f.Off, at)
			}
			if at += f.Len; err == nil {
				found = append(found, f.Catalog)
			} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Errorf("byte %d: got %v", i, err)
			}
		}
		want := slices.Delete([]string{"c0", "c1", "c2"}, hit, hit+1)
		if !slices.Equal(found, want) || at != int64(len(b)) {
			t.Errorf("byte %d: found %v up to %d of %d, want %v", i, found, at, len(b), want)
		}
	}
}

func TestSalvageCut(t *testing.T) {
	t.Parallel()
	whole, ends := segmentOf(t)
	for n := range len(whole) {
		kept, broken := 0, 0
		for _, err := range Salvage(whole[:n], Options{}) {
			if err == nil {
				kept++
			} else {
				broken++
			}
		}
		want := 0
		for _, end := range ends {
			if end <= n {
				want++
			}
		}
		if kept != want || broken != 1 {
			t.Errorf("%d bytes: kept %d, %d stretches, want %d and 1", n, kept, broken, want)
		}
	}
}

// What stands in a damaged frame is told as far as its header can be parsed.
func TestSalvageTellsOf(t *testing.T) {
	t.Parallel()
	b, ends := segmentOf(t)
	b[ends[1]-100] ^= 1
	for f, err := range Salvage(b, Options{}) {
		if err != nil && (f.Catalog != "c1" || f.N != 1 || f.First.Seq != 2 || f.Kind != KindRun) {
			t.Errorf("got %+v", f.Header)
		}
	}
}
