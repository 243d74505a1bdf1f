package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv/mimedb"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// The 233 revisions of a real document, replayed into `lake serve` over more
// than 20 s: over NATS each version and each second gives the listed checksum,
// the log has them all, every diff leads to the next document, and blame names
// the revision; as it was written, folded, after a restart, after the index was
// deleted and made anew from the bucket, after the segments were collected, and
// after a rebuild from what is left.
func TestMimeDBPast(t *testing.T) {
	s := serve(t, t.TempDir())
	c, err := client.New(connect(t, s.url))
	if err != nil {
		t.Fatal(err)
	}
	revs := mimedb.History(t, "../..")
	versions := make([]engine.Version, len(revs))
	docs := make([][]byte, len(revs))
	begin := time.Now()
	for i, rev := range revs {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * 21 * time.Second / time.Duration(len(revs))))) // the pace of the replay is what is tested
		w := request(t, rev)
		w.Author = strconv.Itoa(rev.N)
		r, err := c.Write(t.Context(), w)
		if err != nil {
			t.Fatalf("revision %d: %v", rev.N, err)
		}
		versions[i] = r.Version
		if docs[i], _, err = merge.Merge(docs[max(0, i-1)], []merge.Delta{{Type: w.MergeType, Path: "/", Body: w.Body}}, merge.Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	last := len(revs) - 1
	if span := versions[last].Sec - versions[0].Sec; span < 20 {
		t.Fatalf("the replay took %d s, want 20", span)
	}
	blamed := samplePointers(t, docs, 50)

	check := func(when string) {
		t.Helper()
		start := time.Now()
		c, err := client.New(connect(t, s.url))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		at := func(at *engine.At, i int) {
			t.Helper()
			r, err := c.Read(ctx, engine.ReadRequest{Catalog: "mime-db", At: at})
			if err != nil || r.Version != versions[i] || mimedb.Checksum(t, r.Body) != revs[i].SHA256 {
				t.Fatalf("%s: at %s: version %s, %v; want revision %d at %s", when, at, r.Version, err, i+1, versions[i])
			}
		}
		for i := range versions {
			at(engine.AtVersion(versions[i]), i)
			if i < last && versions[i].Sec < versions[i+1].Sec {
				for sec := versions[i].Sec; sec < versions[i+1].Sec; sec++ {
					at(engine.AtTime(time.Unix(sec, 0)), i)
				}
			}
		}
		at(engine.AtTime(time.Now()), last)
		var entries []engine.LogEntry
		for after := (engine.Version{}); ; {
			p, err := c.Log(ctx, engine.LogRequest{Catalog: "mime-db", After: after, Limit: 50})
			if err != nil {
				t.Fatal(err)
			}
			if entries = append(entries, p.Items...); p.Next == nil {
				break
			}
			after = *p.Next
		}
		for i, e := range entries {
			if e.Version != versions[i] || e.Author != strconv.Itoa(i+1) || e.Outcome.Status != merge.Applied {
				t.Fatalf("%s: log entry %d is %s by %s, %+v", when, i, e.Version, e.Author, e.Outcome)
			}
		}
		if len(entries) != len(revs) {
			t.Fatalf("%s: the log has %d entries", when, len(entries))
		}
		for i := 1; i < len(revs); i++ {
			d, err := c.Diff(ctx, engine.DiffRequest{Catalog: "mime-db", From: engine.At{Version: versions[i-1]}, To: engine.AtVersion(versions[i])})
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := merge.Merge(docs[i-1], []merge.Delta{{Type: d.Merge, Path: "/", Body: d.Patch}}, merge.Limits{})
			if err != nil || mimedb.Checksum(t, got) != revs[i].SHA256 {
				t.Fatalf("%s: the diff to revision %d leads elsewhere (%v)", when, i+1, err)
			}
		}
		for pointer, rev := range blamed {
			b, err := c.Blame(ctx, engine.BlameRequest{Catalog: "mime-db", Pointer: pointer})
			if err != nil || len(b.Items) != 1 || b.Items[0].Author != strconv.Itoa(rev) || b.Items[0].Version != versions[rev-1] {
				t.Fatalf("%s: blame %s: %+v, %v; want revision %d", when, pointer, b.Items, err, rev)
			}
		}
		t.Logf("%s: all as it should be, in %s", when, time.Since(start).Round(time.Millisecond))
	}
	check("as written")
	lake(t, "snapshot", "mime-db", "--lake", s.url)
	check("folded")
	s.Kill()
	s.Start()
	check("after kill -9")
	s.Stop()
	if err := os.RemoveAll(filepath.Join(s.data, "index")); err != nil {
		t.Fatal(err)
	}
	s.Start()
	check("index made anew")

	// Everything is folded and published: no segment is needed any more.
	s.Stop()
	before := segments(t, s.data)
	lake(t, "gc", "--data", s.data, "--gc-grace", "1ms")
	if left := segments(t, s.data); before < len(revs) || left > before/10 {
		t.Errorf("%d of %d segments are left", left, before)
	}
	s.Start()
	check("after garbage collection")
	s.Stop()
	lake(t, "rebuild", "--data", s.data)
	s.Start()
	check("after lake rebuild")
}

// samplePointers gives n JSON Pointers of the last document, with the revision
// that changed the value there last.
func samplePointers(t *testing.T, docs [][]byte, n int) map[string]int {
	t.Helper()
	var all []string
	var walk func(text []byte, at string)
	walk = func(text []byte, at string) {
		all = append(all, at)
		for name, val := range merge.Members(text) {
			walk(val, merge.AppendToken(at, name))
		}
	}
	walk(docs[len(docs)-1], "")
	value := func(i int, pointer string) string {
		v, found, err := merge.Get(docs[i], pointer)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(found, string(v))
	}
	slices.Sort(all)
	sample := map[string]int{}
	for k := range n {
		pointer := all[k*len(all)/n]
		i := len(docs) - 1
		for i > 0 && value(i, pointer) == value(i-1, pointer) {
			i--
		}
		sample[pointer] = i + 1
	}
	return sample
}

// The past on the command line, over a server and in a directory.
func TestPastCommandLine(t *testing.T) {
	data := t.TempDir()
	s := serve(t, data)
	for _, target := range []string{s.url, data} {
		c := "c" + strconv.Itoa(len(target))
		run := func(args ...string) string { return strings.TrimSpace(lake(t, append(args, "--lake", target)...)) }
		if target == data {
			s.Stop() // now the command opens the lake itself
		}
		v1 := run("put", c, "/", `{"a":1,"b":{"x":1}}`, "--author", "ann")
		v2 := run("patch", c, "/b", `{"y":2}`, "--author", "bob")
		v3 := run("rm", c, "/a", "--author", "cid")
		for _, tc := range []struct {
			args []string
			want string
		}{
			{[]string{"get", c, "--at", v1}, `{"a":1,"b":{"x":1}}`},
			{[]string{"get", c, "/b", "--at", v2}, `{"x":1,"y":2}`},
			{[]string{"get", c, "--at", time.Now().Add(time.Hour).Format(time.RFC3339)}, `{"b":{"x":1,"y":2}}`},
			{[]string{"get", c, "--if-none-match", v3, "--relaxed"}, ``},
			{[]string{"get", c, "--min-version", v3, "--if-none-match", v1}, `{"b":{"x":1,"y":2}}`},
			{[]string{"get", c, "--at", v2, "--json"}, fmt.Sprintf(`{"version":%q,"pending":false,"body":{"a":1,"b":{"x":1,"y":2}}}`, v2)},
			{[]string{"diff", c, v1, v2}, `{"b":{"y":2}}`},
			{[]string{"diff", c, v1, "--format", "json-patch"}, `[{"op":"replace","path":"","value":{"b":{"x":1,"y":2}}}]`},
			{[]string{"diff", c, v2, v1, "--json"}, fmt.Sprintf(`{"from":%q,"to":%q,"merge":"merge-patch","patch":{"b":{"y":null}}}`, v2, v1)},
			{[]string{"diff", c, v1, "0_0"}, "delete: there is no document at version 0_0"},
		} {
			if got := run(tc.args...); got != tc.want {
				t.Errorf("lake %s: got %s, want %s", strings.Join(tc.args, " "), got, tc.want)
			}
		}
		if got := strings.Fields(run("log", c, "--desc", "--limit", "2")); got[0] != v3 {
			t.Errorf("log --desc begins with %s, want %s", got[0], v3)
		}
		var b engine.BlameEntry
		if err := json.Unmarshal([]byte(run("blame", c, "/b", "--json")), &b); err != nil || b.Author != "bob" || b.Version.String() != v2 {
			t.Errorf("blame: %+v, %v", b, err)
		}
		if got := strings.Split(run("blame", c, "/b", "--members"), "\n"); len(got) != 2 || !strings.Contains(got[0], "ann") || !strings.Contains(got[1], "bob") || !strings.HasSuffix(got[1], "/b/y") {
			t.Errorf("blame --members: %q", got)
		}
		if got := run("blame", c, "/a"); !strings.HasPrefix(got, v3) || !strings.Contains(got, "delete /a (removed)") || !strings.Contains(got, "cid") {
			t.Errorf("blame of what was removed: %s", got)
		}
		run("revert", c, v1, "--author", "dan")
		if got := run("get", c); got != `{"a":1,"b":{"x":1}}` {
			t.Errorf("reverted: %s", got)
		}
		run("rm", c)
		run("undelete", c)
		if got := run("get", c); got != `{"a":1,"b":{"x":1}}` {
			t.Errorf("undeleted: %s", got)
		}
	}
}
