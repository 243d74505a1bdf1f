package events

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func fullBookmark() *bookmark {
	b := &bookmark{place: place{created: time.Unix(1_763_880_000, 123).UTC(), seq: math.MaxUint64}, sweeping: true, swept: strings.Repeat("中", 42)}
	for i := range b.horizons {
		b.horizons[i] = 9_999_999_999
	}
	return b
}

func TestBookmarkRoundTrip(t *testing.T) {
	t.Parallel()
	short, long := fullBookmark(), fullBookmark()
	for i := range 500 {
		short.told(fmt.Sprintf("c%d", i%40), versionOf(i+1))
		long.told(strings.Repeat("x", engine.MaxCatalogBytes-4)+fmt.Sprintf("%04d", i), engine.Version{Sec: 9_999_999_999, Seq: engine.MaxSeq})
	}
	if len(short.recent) != maxRecent || short.recent[maxRecent-1] != (recent{"c19", versionOf(500)}) {
		t.Errorf("got %d recent, the last %+v", len(short.recent), short.recent[len(short.recent)-1])
	}
	for name, b := range map[string]*bookmark{"empty": {}, "short names": short, "long names": long} {
		token := b.encode("pre")
		if len(token) > MaxCursorBytes || url.QueryEscape(token) != token {
			t.Errorf("%s: %d bytes, %.60s", name, len(token), token)
		}
		got, err := parseBookmark(token, "pre")
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, b)
		}
	}
}

// A cursor comes from outside.
func TestBookmarkRefuses(t *testing.T) {
	t.Parallel()
	b := fullBookmark()
	b.told("users", versionOf(1))
	token := b.encode("")
	raw, err := base64.RawURLEncoding.DecodeString(token[len(bookmarkMark):])
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(change func([]byte) []byte) string {
		r := change(append([]byte(nil), raw...))
		binary.BigEndian.PutUint32(r, crc32.ChecksumIEEE(r[4:]))
		return bookmarkMark + base64.RawURLEncoding.EncodeToString(r)
	}
	for name, c := range map[string]struct{ token, prefix string }{
		"nothing of ours":  {"hello", ""},
		"a version":        {"1700000000_1", ""},
		"mark alone":       {bookmarkMark, ""},
		"not base64":       {bookmarkMark + "!!!", ""},
		"too long":         {bookmarkMark + strings.Repeat("A", MaxCursorBytes), ""},
		"cut":              {token[:len(token)-3], ""},
		"changed":          {strings.Replace(token, token[20:21], string(token[20]^1), 1), ""},
		"another prefix":   {token, "a"},
		"more behind it":   {sealed(func(r []byte) []byte { return append(r, 0) }), ""},
		"less than it has": {sealed(func(r []byte) []byte { return r[:len(r)-1] }), ""},
		"a bad name":       {sealed(func(r []byte) []byte { r[len(r)-7] = 0; return r }), ""},
		"another version":  {"c2." + token[3:], ""},
	} {
		_, err := parseBookmark(c.token, c.prefix)
		var inv *engine.InvalidError
		if !errors.As(err, &inv) || inv.Code != "invalid_cursor" || engine.Code(err).HTTP != 400 {
			t.Errorf("%s: got %v, want invalid_cursor", name, err)
		}
	}
}

func FuzzBookmark(f *testing.F) {
	b := fullBookmark()
	b.told("users", versionOf(7))
	f.Add([]byte(b.encode("")), false)
	f.Add([]byte((&bookmark{}).encode("")), false)
	f.Add(make([]byte, 40), true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		s := string(data)
		if seal { // past the checksums
			raw := append(binary.BigEndian.AppendUint32(make([]byte, 4), crc32.ChecksumIEEE(nil)), data...)
			binary.BigEndian.PutUint32(raw, crc32.ChecksumIEEE(raw[4:]))
			s = bookmarkMark + base64.RawURLEncoding.EncodeToString(raw)
		}
		b, err := parseBookmark(s, "")
		if err != nil {
			if !errors.Is(err, engine.ErrInvalid) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if len(b.recent) > maxRecent {
			t.Fatalf("%d recent", len(b.recent))
		}
		again, err := parseBookmark(b.encode(""), "")
		if err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("got %+v, %v, want %+v", again, err, b)
		}
	})
}
