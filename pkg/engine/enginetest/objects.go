package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// TestObjects holds an adapter to the contract of engine.Objects. Each call of
// open gives a store without objects that nobody else uses. Cases run in
// parallel.
func TestObjects(t *testing.T, open func(t *testing.T) engine.Objects) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(f *bucket)
	}{
		{"put, get", putGet},
		{"put is create-only", createOnly},
		{"one of many racers creates", racers},
		{"a reader sees the whole object or none", wholeOrNone},
		{"ranges", ranges},
		{"no such object", notExist},
		{"delete", deletes},
		{"empty object", emptyObject},
		{"large object", largeObject},
		{"bytes are private", privateBytes},
		{"keys of the layout", layoutKeys},
		{"list in byte order", listOrder},
		{"list by prefix and after", listPrefix},
		{"list over many pages", listPages},
		{"list of nothing", listNothing},
		{"cancelled context", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(&bucket{T: t, o: open(t)})
		})
	}
}

type bucket struct {
	*testing.T
	o engine.Objects
}

func (f *bucket) is(err, target error) {
	f.Helper()
	if !errors.Is(err, target) {
		f.Fatalf("got error %v, want %v", err, target)
	}
}

func (f *bucket) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("got error %v, want none", err)
	}
}

func (f *bucket) put(key string, data []byte) {
	f.Helper()
	f.ok(f.o.Put(f.Context(), key, data))
}

func (f *bucket) want(key string, data []byte) {
	f.Helper()
	got, err := f.o.Get(f.Context(), key)
	f.ok(err)
	if !bytes.Equal(got, data) {
		f.Fatalf("get %s: got %d bytes %.40q, want %d bytes %.40q", key, len(got), got, len(data), data)
	}
}

// keys lists, and holds that the sizes are right.
func (f *bucket) keys(prefix, after string, size func(key string) int64) []string {
	f.Helper()
	var list []string
	for info, err := range f.o.List(f.Context(), prefix, after) {
		f.ok(err)
		if size != nil && info.Size != size(info.Key) {
			f.Fatalf("list %s: got %d bytes, want %d", info.Key, info.Size, size(info.Key))
		}
		list = append(list, info.Key)
	}
	return list
}

func putGet(f *bucket) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	f.put("wal/000001/a.seg", all)
	f.put("wal/000001/b.seg", []byte("b"))
	f.want("wal/000001/a.seg", all)
	f.want("wal/000001/b.seg", []byte("b"))
}

func createOnly(f *bucket) {
	f.put("k", []byte("first"))
	for _, data := range []string{"second", "first", ""} {
		f.is(f.o.Put(f.Context(), "k", []byte(data)), engine.ErrExists)
	}
	f.want("k", []byte("first"))
}

func racers(f *bucket) {
	const n = 24
	for round := range 8 {
		key := fmt.Sprintf("race/%d", round)
		var mu sync.Mutex
		var winner []byte
		won := race(f.T, n, func(i int) bool {
			data := bytes.Repeat([]byte{byte('a' + i)}, 1000+i)
			err := f.o.Put(f.Context(), key, data)
			if err != nil && !errors.Is(err, engine.ErrExists) {
				f.Errorf("racer %d: got error %v, want none or %v", i, err, engine.ErrExists)
			}
			if err != nil {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			winner = data
			return true
		})
		if won != 1 {
			f.Fatalf("%s: got %d winners, want 1", key, won)
		}
		f.want(key, winner)
	}
}

func wholeOrNone(f *bucket) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for seen := false; !seen; {
				select {
				case <-done:
					seen = true // one last look: it must be there
				default:
				}
				got, err := f.o.Get(f.Context(), "big")
				switch {
				case errors.Is(err, engine.ErrNotExist) && !seen:
				case err != nil:
					f.Errorf("got error %v, want none", err)
					return
				case !bytes.Equal(got, data):
					f.Errorf("got %d bytes of an object of %d", len(got), len(data))
					return
				}
			}
		})
	}
	err := f.o.Put(f.Context(), "big", data)
	close(done)
	wg.Wait()
	f.ok(err)
}

func ranges(f *bucket) {
	data := []byte("0123456789")
	f.put("dir/k", data)
	for _, r := range []struct{ off, length int64 }{{0, 10}, {0, 1}, {9, 1}, {3, 4}, {5, 5}} {
		got, err := f.o.GetRange(f.Context(), "dir/k", r.off, r.length)
		f.ok(err)
		if want := data[r.off : r.off+r.length]; !bytes.Equal(got, want) {
			f.Fatalf("%d bytes from %d: got %q, want %q", r.length, r.off, got, want)
		}
	}
	for _, r := range []struct{ off, length int64 }{{0, 11}, {9, 2}, {10, 1}, {11, 1}, {1 << 40, 1}, {5, 1 << 40}, {1, 1<<63 - 1}} {
		_, err := f.o.GetRange(f.Context(), "dir/k", r.off, r.length)
		f.is(err, engine.ErrDamaged)
	}
	for _, r := range []struct{ off, length int64 }{{-1, 1}, {0, -1}, {-1 << 63, 10}} {
		if _, err := f.o.GetRange(f.Context(), "dir/k", r.off, r.length); err == nil {
			f.Fatalf("%d bytes from %d: got no error", r.length, r.off)
		}
	}
}

func notExist(f *bucket) {
	f.put("dir/k", []byte("x"))
	for _, key := range []string{"none", "dir/none", "dir/k2", "dir", "dir/", "dir/k/deeper", "di"} {
		_, err := f.o.Get(f.Context(), key)
		f.is(err, engine.ErrNotExist)
		_, err = f.o.GetRange(f.Context(), key, 0, 1)
		f.is(err, engine.ErrNotExist)
	}
}

func deletes(f *bucket) {
	f.put("dir/a", []byte("a"))
	f.put("dir/b", []byte("b"))
	f.ok(f.o.Delete(f.Context(), "dir/none"))
	f.ok(f.o.Delete(f.Context(), "nowhere/none"))
	for range 2 {
		f.ok(f.o.Delete(f.Context(), "dir/a"))
		_, err := f.o.Get(f.Context(), "dir/a")
		f.is(err, engine.ErrNotExist)
	}
	f.want("dir/b", []byte("b"))
	if got := f.keys("", "", nil); !slices.Equal(got, []string{"dir/b"}) {
		f.Fatalf("got %q, want dir/b alone", got)
	}
	f.ok(f.o.Delete(f.Context(), "dir/b"))
	f.put("dir/a", []byte("again"))
	f.want("dir/a", []byte("again"))
}

func emptyObject(f *bucket) {
	for key, data := range map[string][]byte{"nil": nil, "empty": {}} {
		f.put(key, data)
		f.want(key, nil)
		f.is(f.o.Put(f.Context(), key, []byte("x")), engine.ErrExists)
		_, err := f.o.GetRange(f.Context(), key, 0, 1)
		f.is(err, engine.ErrDamaged)
	}
	if got := f.keys("", "", func(string) int64 { return 0 }); !slices.Equal(got, []string{"empty", "nil"}) {
		f.Fatalf("got %q, want both", got)
	}
}

func largeObject(f *bucket) {
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i * 7919 >> 8)
	}
	f.put("large", data)
	f.want("large", data)
	got, err := f.o.GetRange(f.Context(), "large", 5<<20+1, 1<<20)
	f.ok(err)
	if !bytes.Equal(got, data[5<<20+1:6<<20+1]) {
		f.Fatal("got other bytes than were put")
	}
	f.keys("", "", func(string) int64 { return int64(len(data)) })
}

func privateBytes(f *bucket) {
	data := []byte("0123456789")
	f.put("k", data)
	clear(data)
	for range 2 {
		got, err := f.o.Get(f.Context(), "k")
		f.ok(err)
		part, err := f.o.GetRange(f.Context(), "k", 2, 3)
		f.ok(err)
		if string(got) != "0123456789" || string(part) != "234" {
			f.Fatalf("got %q and %q, want what was put", got, part)
		}
		clear(got)
		clear(part)
		_ = append(part, "xxxx"...)
	}
}

// layoutNames are keys as the engine makes them, with every character that can
// stand in one.
func layoutNames() []string {
	v := engine.Version{Sec: 1_700_000_000, Seq: 1}
	keys := []string{"_lake/format.json", "_lake/epoch/000001.json", "_lake/epoch/000001.seal.json"}
	for n := range uint64(3) {
		keys = append(keys, engine.SegmentID{Epoch: 1, Unix: v.Sec, Writer: "abcdefgh", N: n + 1}.Key())
	}
	for _, name := range []string{"users", "USERS", "Users", "中文", "-", "_", "a.b", strings.Repeat("\U0010FFFF", 32)} {
		keys = append(keys, engine.SnapshotKey(name, engine.Version{}, v), engine.PackKey(name, engine.Version{}, v), engine.PackKey(name, v, v.Add(engine.MaxSeq)))
	}
	slices.Sort(keys)
	return keys
}

func layoutKeys(f *bucket) {
	keys := layoutNames()
	for _, key := range keys {
		f.put(key, []byte(key))
	}
	for _, key := range keys {
		f.want(key, []byte(key))
	}
	size := func(key string) int64 { return int64(len(key)) }
	if got := f.keys("", "", size); !slices.Equal(got, keys) {
		f.Fatalf("got %q, want %q", got, keys)
	}
	dir := engine.CatalogDir("users") + "/"
	want := []string{engine.PackKey("users", engine.Version{}, engine.Version{Sec: 1_700_000_000, Seq: 1})}
	if got := f.keys(dir+"delta/0_0~", "", size); !slices.Equal(got, want) {
		f.Fatalf("got %q, want %q", got, want)
	}
}

func listOrder(f *bucket) {
	// A store of directories must not list by directory: "-" and "." sort before "/".
	keys := []string{
		"p/a/1", "p/a-1", "p/a.1", "p/a0", "p/a(1", "p/a)1", "p/a~1", "p/a_1", "p/A/1", "p/a/(/x", "p/a/)/x", "p/a/~", "p(/1", "p/b/2/3/4", "p-/1", "p0", "q",
	}
	for _, key := range keys {
		f.put(key, []byte(key))
	}
	slices.Sort(keys)
	if got := f.keys("", "", func(key string) int64 { return int64(len(key)) }); !slices.Equal(got, keys) {
		f.Fatalf("got %q, want %q", got, keys)
	}
	for i, after := range keys {
		if got := f.keys("", after, nil); !slices.Equal(got, keys[i+1:]) {
			f.Fatalf("after %q: got %q, want %q", after, got, keys[i+1:])
		}
	}
	for _, prefix := range []string{"p", "p/", "p/a", "p/a/", "p/a-", "p/a(", "p/a/(", "p/a/(/", "p/b/2", "p(", "q", "q/", "p/a/1/"} {
		for _, after := range append([]string{"", "p/a/0", "p/a/1/", "p/a,", "o", "r", prefix}, keys...) {
			var want []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			if got := f.keys(prefix, after, nil); !slices.Equal(got, want) {
				f.Fatalf("prefix %q after %q: got %q, want %q", prefix, after, got, want)
			}
		}
	}
}

func listPrefix(f *bucket) {
	var keys []string
	for epoch := range 3 {
		for n := range 4 {
			keys = append(keys, engine.SegmentID{Epoch: uint64(epoch), Unix: 1_700_000_000 + int64(n), Writer: "abcdefgh", N: 1}.Key())
		}
	}
	for _, key := range keys {
		f.put(key, []byte("x"))
	}
	for _, c := range []struct {
		prefix, after string
		want          []string
	}{
		{"wal/", "", keys},
		{"wal/000001/", "", keys[4:8]},
		{"wal/000001/", keys[5], keys[6:8]},
		{"wal/000001/", keys[0], keys[4:8]},
		{"wal/000001/", keys[8], nil},
		{"wal/000001/17000000", "", keys[4:8]},
		{"wal/000001/1700000002", "", keys[6:7]},
		{"wal/000001/1700000002", keys[6], nil},
		{keys[3], "", keys[3:4]},
		{"wal/000003/", "", nil},
		{"", keys[10], keys[11:]},
	} {
		if got := f.keys(c.prefix, c.after, nil); !slices.Equal(got, c.want) {
			f.Fatalf("prefix %q after %q: got %q, want %q", c.prefix, c.after, got, c.want)
		}
	}
	for info, err := range f.o.List(f.Context(), "wal/", "") { // stopping early is allowed
		f.ok(err)
		if info.Key != keys[0] {
			f.Fatalf("got %s, want %s", info.Key, keys[0])
		}
		break
	}
}

func listPages(f *bucket) {
	const many = 2500
	var keys []string
	for i := range many {
		keys = append(keys, fmt.Sprintf("wal/%06d/%d.seg", i/900, i))
	}
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < many && errs[w] == nil; i += len(errs) {
				errs[w] = f.o.Put(f.Context(), keys[i], []byte(keys[i]))
			}
		})
	}
	wg.Wait()
	f.ok(errors.Join(errs...))
	slices.Sort(keys)
	size := func(key string) int64 { return int64(len(key)) }
	if got := f.keys("wal/", "", size); !slices.Equal(got, keys) {
		f.Fatalf("got %d keys, want %d", len(got), many)
	}
	for _, i := range []int{0, 1, 998, 999, 1000, 1001, 1500, 2499} {
		if got := f.keys("wal/", keys[i], size); !slices.Equal(got, keys[i+1:]) {
			f.Fatalf("after %s: got %d keys, want %d", keys[i], len(got), many-i-1)
		}
	}
	if got := f.keys("wal/000001/", "", size); len(got) != 900 {
		f.Fatalf("got %d keys of a directory, want 900", len(got))
	}
}

func listNothing(f *bucket) {
	for _, prefix := range []string{"", "wal/", "wal/000001/17"} {
		if got := f.keys(prefix, "", nil); len(got) != 0 {
			f.Fatalf("got %q, want nothing", got)
		}
	}
}

func cancelled(f *bucket) {
	f.put("k", []byte("x"))
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	_, getErr := f.o.Get(ctx, "k")
	_, rangeErr := f.o.GetRange(ctx, "k", 0, 1)
	var listErr error
	for _, err := range f.o.List(ctx, "", "") {
		if err != nil {
			listErr = err
		}
	}
	for name, err := range map[string]error{
		"put": f.o.Put(ctx, "other", []byte("x")), "get": getErr, "range": rangeErr, "delete": f.o.Delete(ctx, "k"), "list": listErr,
	} {
		if !errors.Is(err, context.Canceled) {
			f.Errorf("%s: got error %v, want %v", name, err, context.Canceled)
		}
	}
	f.want("k", []byte("x"))
}
