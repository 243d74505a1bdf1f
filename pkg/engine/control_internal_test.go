package engine

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Every flipped bit and every cut of a control object is damage that names it.
func TestControlDamage(t *testing.T) {
	t.Parallel()
	was := sealObject{Epoch: 1, SealedBy: 2, Segments: []string{"wal/000001/1700000000-abcdefgh-00000001.seg", "wal/000001/1700000001-abcdefgh-00000002.seg"}}
	b, err := marshalControl(was)
	if err != nil {
		t.Fatal(err)
	}
	var s sealObject
	if err := unmarshalControl("k", b, &s); err != nil || s.Epoch != 1 || !slices.Equal(s.Segments, was.Segments) {
		t.Fatalf("got %+v, %v, want %+v", s, err, was)
	}
	damaged := func(what string, b []byte) {
		var s sealObject
		if err := unmarshalControl("_lake/k", b, &s); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "_lake/k") {
			t.Errorf("%s: got %v, want damage that names the object", what, err)
		}
	}
	for i := range b {
		for bit := range 8 {
			c := slices.Clone(b)
			c[i] ^= 1 << bit
			damaged("flipped "+string(c), c)
		}
		damaged("cut", b[:i])
	}
	damaged("longer", append(slices.Clone(b), '\n'))
	plain, err := json.Marshal(was)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshalControl("k", plain, &s); err != nil {
		t.Errorf("without a checksum: %v", err)
	}
}
