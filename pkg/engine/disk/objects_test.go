package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// A key that leads out of the directory, or into what is not for objects, is
// refused everywhere.
func TestKeysRefused(t *testing.T) {
	t.Parallel()
	o := openObjects(t, t.TempDir())
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/..", "./a", "a/./b", ".tmp/a", "a/.b",
		"a\x00b", `a\b`, strings.Repeat("a", 256), "d/" + strings.Repeat("a", 256) + "/k",
	} {
		if err := o.Put(t.Context(), key, []byte("x")); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("put %q: got %v, want %v", key, err, engine.ErrInvalid)
		}
		if _, err := o.Get(t.Context(), key); !errors.Is(err, engine.ErrNotExist) {
			t.Errorf("get %q: got %v, want %v", key, err, engine.ErrNotExist)
		}
		if err := o.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %q: got no error", key)
		}
	}
	if err := o.Put(t.Context(), "d/"+strings.Repeat("a", 255), nil); err != nil {
		t.Error(err)
	}
	for _, prefix := range []string{"../", "/", "./", "a//", ".tmp/", "\x00"} {
		if got := list(t, o, prefix); len(got) > 0 {
			t.Errorf("list %q: got %q, want nothing", prefix, got)
		}
	}
}

func list(t *testing.T, o *disk.Objects, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range o.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// A key that others continue cannot be an object on files: that is told, and
// not taken for a lost race.
func TestKeyIsDirectory(t *testing.T) {
	t.Parallel()
	o := openObjects(t, t.TempDir())
	if err := o.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(t.Context(), "a", []byte("x")); err == nil || errors.Is(err, engine.ErrExists) {
		t.Errorf("put a: got %v, want an error that is not %v", err, engine.ErrExists)
	}
	if err := o.Put(t.Context(), "a/b/c", []byte("x")); err == nil || errors.Is(err, engine.ErrExists) {
		t.Errorf("put a/b/c: got %v, want an error that is not %v", err, engine.ErrExists)
	}
	if _, err := o.Get(t.Context(), "a"); !errors.Is(err, engine.ErrNotExist) {
		t.Errorf("get a: got %v, want %v", err, engine.ErrNotExist)
	}
	if err := o.Delete(t.Context(), "a"); err != nil {
		t.Errorf("delete a: got %v, want no error", err)
	}
	if got := list(t, o, ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("got %q, want a/b alone", got)
	}
}

// Temporary files of the dead go at the next open, those of the living stay.
func TestLeftOvers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := filepath.Join(dir, ".tmp", "dead")
	for _, name := range []string{filepath.Join(dead, "7"), filepath.Join(dead, "LOCK")} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("half an obj"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	first := openObjects(t, dir)
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left-over: got %v, want it removed", err)
	}
	second := openObjects(t, dir)
	for i, o := range []*disk.Objects{first, second} {
		if err := o.Put(t.Context(), fmt.Sprintf("wal/%d", i), []byte("x")); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, second, ""); !slices.Equal(got, []string{"wal/0", "wal/1"}) {
		t.Errorf("got %q, want both objects and nothing else", got)
	}
}

// A context that ends before the object has its name leaves nothing.
func TestPutCancelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := openObjects(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Put(ctx, "wal/1", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if got := list(t, o, ""); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

// Directories that somebody has removed are made again.
func TestRemovedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := openObjects(t, dir)
	if err := o.Put(t.Context(), "a/b/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	_ = o.Put(t.Context(), "a/b/2", []byte("x")) // finds out
	if err := o.Put(t.Context(), "a/b/3", []byte("x")); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	if got := list(t, o, ""); !slices.Equal(got, []string{"a/b/3"}) {
		t.Errorf("got %q, want a/b/3", got)
	}
}

// Many puts into one directory and into new ones, at once.
func TestConcurrentPuts(t *testing.T) {
	t.Parallel()
	o := openObjects(t, t.TempDir())
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 20 {
				key := fmt.Sprintf("wal/%02d-%02d", g, i)
				if i%5 == 0 {
					key = fmt.Sprintf("new/%d/%d/%d", g, i, i)
				}
				if err := o.Put(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	keys := list(t, o, "")
	if len(keys) != 16*20 || !slices.IsSorted(keys) {
		t.Fatalf("got %d keys, sorted %v, want %d", len(keys), slices.IsSorted(keys), 16*20)
	}
	for _, key := range keys {
		if b, err := o.Get(t.Context(), key); err != nil || !bytes.Equal(b, []byte(key)) {
			t.Fatalf("get %s: got %q, %v", key, b, err)
		}
	}
}

// putUntilKilled puts objects of many sizes, several at once, and says which of
// them are there for good. The last bytes of an object are its key.
func putUntilKilled(dir string, seed uint64) error {
	o, err := disk.OpenObjects(dir)
	if err != nil {
		return err
	}
	errs := make(chan error)
	for g := range 4 {
		go func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := 0; ; i++ {
				key := fmt.Sprintf("d%d/%d-%d", rng.IntN(40), g, i)
				data := append(bytes.Repeat([]byte{'x'}, rng.IntN(1<<rng.IntN(20))), key...)
				err := o.Put(context.Background(), key, data)
				if err == nil {
					_, err = fmt.Println(key, len(data))
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// What was put is there after a kill, and nothing is there in part.
func TestKillPuts(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	for round := range 3 {
		lines := killAfter(t, "objects", dir, seed+uint64(round), 50*(round+1))
		o := openObjects(t, dir)
		if dead, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(dead) != 1 {
			t.Errorf("got %v, %v, want the directory of this process alone", dead, err)
		}
		for _, line := range lines {
			key, size, _ := strings.Cut(line, " ")
			if b, err := o.Get(t.Context(), key); err != nil || strconv.Itoa(len(b)) != size {
				t.Errorf("get %s: got %d bytes, %v, want %s bytes", key, len(b), err, size)
			}
		}
		for info, err := range o.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			if b, err := o.Get(t.Context(), info.Key); err != nil || !bytes.HasSuffix(b, []byte(info.Key)) {
				t.Errorf("get %s: got %d bytes, %v, want all of them", info.Key, len(b), err)
			}
			if err := o.Delete(t.Context(), info.Key); err != nil {
				t.Error(err)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
