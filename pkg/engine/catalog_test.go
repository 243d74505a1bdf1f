package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestEncodeCatalog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, token, dir string }{
		{"users", "(users", "9bc6/(users"},
		{"USERS", ")USERS", "4020/)USERS"},
		{"Users", "kvzwk4tt", "f9aa/kvzwk4tt"},
		{"中文", "4s4k3zuwq4", "a7ba/4s4k3zuwq4"},
		{"0", "(0", "cfcd/(0"}, // no letters at all counts as lower case
		{"-", "(-", "336d/(-"},
		{"a_b-9", "(a_b-9", ""},
		{"A_B-9", ")A_B-9", ""},
		{"a.b", "mexge", "e32b/mexge"}, // a dot separates the tokens of a subject
		{"aB", "mfba", ""},
		{"(users", "fb2xgzlsom", ""},
		{" ", "ea", ""},
	} {
		if got := engine.EncodeCatalog(c.name); got != c.token {
			t.Errorf("encode %q: got %q, want %q", c.name, got, c.token)
		}
		if got, err := engine.DecodeCatalog(c.token); err != nil || got != c.name {
			t.Errorf("decode %q: got %q and error %v, want %q", c.token, got, err, c.name)
		}
		if got := engine.CatalogDir(c.name); c.dir != "" && got != c.dir {
			t.Errorf("dir of %q: got %q, want %q", c.name, got, c.dir)
		}
	}
}

func TestDecodeCatalogRefuses(t *testing.T) {
	t.Parallel()
	for _, token := range []string{
		"", "(", ")", "users", "USERS", "(Users", "(USERS", ")users", ")0", "(a.b", "(中文", "(a b",
		"KVZWK4TT", "kvzwk4tt=", "kvzwk4tt=======", "kvzwk4t1", "kvzwk4tt\n", "4s4k3zuwq5", // another spelling of the last bits
		"eb", "kvzwk4tt ", "(users\n", "aa", "74", "x", strings.Repeat("a", 300), "(" + strings.Repeat("a", 129),
	} {
		name, err := engine.DecodeCatalog(token)
		if !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("decode %q: got %q and error %v, want %v", token, name, err, engine.ErrInvalid)
		}
	}
}

func TestValidateCatalog(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"u", "users", "a/b", "a b", " ", "{}", "*", ">", "中文", "👩‍👩‍👧‍👦", "\u2028", strings.Repeat("x", 128), strings.Repeat("\U0010FFFF", 32), "\uFFFD",
	} {
		if err := engine.ValidateCatalog(name); err != nil {
			t.Errorf("%q: got error %v, want none", name, err)
		}
	}
	for _, c := range []struct {
		name   string
		offset int
	}{
		{"", -1}, {strings.Repeat("x", 129), -1}, {strings.Repeat("中", 43), -1}, {"\xff", -1}, {"a\xc3", -1}, {"\xed\xa0\x80", -1},
		{"a\x00", 1}, {"\n", 0}, {"ab\t", 2}, {"中\x7f", 3}, {"é\u0085", 2}, {"\u009f", 0},
	} {
		err := engine.ValidateCatalog(c.name)
		var invalid *engine.InvalidError
		if !errors.As(err, &invalid) || invalid.Code != "invalid_catalog" || invalid.Field != "catalog" || invalid.Offset != c.offset || invalid.Detail == "" {
			t.Errorf("%q: got error %#v, want invalid_catalog at byte %d", c.name, err, c.offset)
		}
	}
}

// Names that differ have tokens that differ, even where a file system does not
// tell upper from lower case.
func TestEncodeCatalogIsInjective(t *testing.T) {
	t.Parallel()
	var names []string
	alphabet := []string{"a", "A", "b", "B", "0", "-", "_", ".", "(", ")", "é", "中"}
	for _, a := range alphabet {
		names = append(names, a)
		for _, b := range alphabet {
			names = append(names, a+b)
			for _, c := range alphabet {
				names = append(names, a+b+c)
			}
		}
	}
	seen := make(map[string]string)
	for _, name := range names {
		token := strings.ToLower(engine.EncodeCatalog(name))
		if other, there := seen[token]; there {
			t.Fatalf("%q and %q: both are %q", name, other, token)
		}
		seen[token] = name
	}
}

func TestShard(t *testing.T) {
	t.Parallel()
	var count [engine.Shards]int
	check := func(name string) int {
		s := engine.Shard(name)
		if want := engine.CatalogDir(name)[:1]; fmt.Sprintf("%x", s) != want {
			t.Fatalf("shard of %q: got %x, want %s", name, s, want)
		}
		return s
	}
	for i := range 1600 {
		count[check(fmt.Sprintf("catalog-%d", i))]++
	}
	for i := range 20_000 { // more than are remembered, each twice
		check(fmt.Sprintf("catalog-%d", i))
		check(fmt.Sprintf("catalog-%d", i))
	}
	for range 2 {
		check(strings.Repeat("long", engine.MaxCatalogBytes))
	}
	for s, n := range count {
		if n < 50 || n > 150 {
			t.Errorf("shard %d: got %d of 1600 names, want about 100", s, n)
		}
	}
}

// FuzzCatalog: whatever is a name has a token that is safe in a subject, an
// object key and a hash tag, and decodes to the name; whatever decodes encodes
// to itself.
func FuzzCatalog(f *testing.F) {
	for _, s := range []string{"users", "USERS", "Users", "中文", "(users", "kvzwk4tt", "a.b", "", "\xff", "a\x00", strings.Repeat("\U0010FFFF", 32)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := engine.DecodeCatalog(s); err == nil {
			if got := engine.EncodeCatalog(name); got != s {
				t.Fatalf("%q decodes to %q, which encodes to %q", s, name, got)
			}
			if err := engine.ValidateCatalog(name); err != nil {
				t.Fatalf("%q decodes to %q: %v", s, name, err)
			}
		} else if !errors.Is(err, engine.ErrInvalid) {
			t.Fatalf("decode %q: got error %v, want %v", s, err, engine.ErrInvalid)
		}
		if err := engine.ValidateCatalog(s); err != nil {
			return
		}
		if !utf8.ValidString(s) || s == "" || len(s) > engine.MaxCatalogBytes {
			t.Fatalf("%q: got a valid name", s)
		}
		token := engine.EncodeCatalog(s)
		if got, err := engine.DecodeCatalog(token); err != nil || got != s {
			t.Fatalf("%q: token %q decodes to %q and error %v", s, token, got, err)
		}
		if len(token) > 205 || strings.Trim(token, "()ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" || strings.ContainsAny(token[1:], "()") {
			t.Fatalf("%q: got token %q of %d bytes", s, token, len(token))
		}
	})
}
