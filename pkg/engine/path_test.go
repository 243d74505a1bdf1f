package engine_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestValidatePath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/", "/user", "/user/profile", "/user.info", "/$config", "/_", "/$", "/a1", "/A/b/C", "/a.b.c/d", "/a.", "/a..b", "/$$", "/__proto__", "/u2",
		"/" + strings.Repeat("a", 511), strings.Repeat("/a", 256),
	} {
		if err := engine.ValidatePath(path); err != nil {
			t.Errorf("%q: got error %v, want none", path, err)
		}
	}
	for _, c := range []struct {
		path   string
		offset int
	}{
		{"", -1}, {"user", 0}, {"/user/", 5}, {"/123", 1}, {"/user-name", 5}, {"//", 1}, {"//a", 1}, {"/a//b", 3}, {"/.a", 1}, {"/a/.b", 3}, {"/a/1", 3},
		{" /a", 0}, {"/a ", 2}, {"/a b", 2}, {"/é", 1}, {"/a\x00", 2}, {"/a~0", 2}, {"/a\n", 2}, {"/a*", 2}, {"/a[0]", 2}, {"$", 0}, {"/a/-", 3}, {"/\xff", 1}, {"/-1", 1},
		{"/" + strings.Repeat("a", 512), -1},
	} {
		err := engine.ValidatePath(c.path)
		var invalid *engine.InvalidError
		if !errors.As(err, &invalid) || invalid.Code != "invalid_path" || invalid.Field != "path" || invalid.Offset != c.offset || invalid.Detail == "" {
			t.Errorf("%q: got error %#v, want invalid_path at byte %d", c.path, err, c.offset)
		}
	}
}

func TestValidatePointer(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", "/", "/a", "/a/0", "/a~0b/~1", "//", "/ ", "/é", "/a.b", "/~01", "/" + strings.Repeat("a", 4095)} {
		if err := engine.ValidatePointer(p); err != nil {
			t.Errorf("%q: got error %v, want none", p, err)
		}
	}
	for _, c := range []struct {
		pointer string
		offset  int
	}{{"a", 0}, {"#/a", 0}, {"/~", 1}, {"/a~2", 2}, {"/~0~", 3}, {"/~~0", 1}, {"/a/~x", 3}, {"/" + strings.Repeat("a", 4096), -1}} {
		err := engine.ValidatePointer(c.pointer)
		var invalid *engine.InvalidError
		if !errors.As(err, &invalid) || invalid.Code != "invalid_pointer" || invalid.Offset != c.offset {
			t.Errorf("%.20q: got error %#v, want invalid_pointer at byte %d", c.pointer, err, c.offset)
		}
	}
}

var pathGrammar = regexp.MustCompile(`^(/|(/[A-Za-z_$][A-Za-z0-9_$.]*)+)\z`)

// FuzzPath holds ValidatePath against the grammar as a regular expression.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/user", "/user/profile", "/user.info", "/$config", "user", "/user/", "/123", "/user-name", "", "//", "/a\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		want := len(path) <= engine.MaxPathBytes && pathGrammar.MatchString(path)
		err := engine.ValidatePath(path)
		if (err == nil) != want {
			t.Fatalf("%q: got error %v, want it valid: %v", path, err, want)
		}
		var invalid *engine.InvalidError
		if err != nil && (!errors.As(err, &invalid) || invalid.Offset < -1 || invalid.Offset >= max(1, len(path))) {
			t.Fatalf("%q: got error %#v", path, err)
		}
	})
}

// FuzzPointer holds ValidatePointer against the grammar of RFC 6901 section 3.
func FuzzPointer(f *testing.F) {
	for _, s := range []string{"", "/", "/a~0", "/~", "a", "/~2"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^(?s:(/([^/~]|~[01])*)*)\z`)
	f.Fuzz(func(t *testing.T, p string) {
		want := len(p) <= 4096 && grammar.MatchString(p)
		if err := engine.ValidatePointer(p); (err == nil) != want {
			t.Fatalf("%q: got error %v, want it valid: %v", p, err, want)
		}
	})
}
