package fault

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/jsonlake/lake/pkg/engine"
)

// told makes a small true history: what was written, one after the other, a
// read after each write, and the log that belongs to it.
func told() ([]op, final) {
	var ops []op
	var f final
	now := time.Duration(0)
	add := func(o op) {
		o.call, o.ret = now, now+10
		now += 20
		ops = append(ops, o)
	}
	for i, w := range []op{
		{kind: opInit, value: "init"}, {kind: opReplace, value: "a"}, {kind: opAppend, value: "b"}, {kind: opKey, value: "c"},
		{kind: opAppend, value: "d", state: unknown}, {kind: opAppend, value: "e"}, {kind: opSwap, value: "f"},
	} {
		v := engine.Version{Sec: 100, Seq: uint32(i + 1)}
		w.ifVersion = f.version
		f.log = append(f.log, engine.LogEntry{Version: v, Prev: f.version, Author: w.value, Body: w.request("").Body})
		f.version, f.doc = v, apply(f.doc, &w)
		if w.kind == opAppend {
			f.list = append(f.list, w.value)
		}
		if w.state == acked {
			w.version = v
		}
		add(w)
		add(op{kind: opRead, version: v, seen: f.doc})
		add(op{kind: opLog, page: slices.Clone(f.log)})
	}
	add(op{kind: opSwap, value: "g", state: conflict, version: f.version})
	add(op{kind: opReplace, value: "h", state: unknown})
	add(op{kind: opReplace, value: "i", state: refused})
	return ops, f
}

// The checker passes what is right and notices everything that is not.
func TestChecker(t *testing.T) {
	t.Parallel()
	find := func(ops []op, value string) *op {
		return &ops[slices.IndexFunc(ops, func(o op) bool { return o.value == value })]
	}
	drop := func(f *final, author string) {
		i := slices.IndexFunc(f.log, func(e engine.LogEntry) bool { return e.Author == author })
		f.log[i+1].Prev = f.log[i].Prev
		f.log = slices.Delete(f.log, i, i+1)
	}
	swap := func(f *final, i, k int) {
		a, b := &f.log[i], &f.log[k]
		a.Author, b.Author = b.Author, a.Author
		a.Body, b.Body = b.Body, a.Body
	}
	for _, tc := range []struct {
		name  string
		spoil func(ops []op, f *final)
		want  string // "" when all is right
	}{
		{"right", func([]op, *final) {}, ""},
		{"lost", func(_ []op, f *final) { drop(f, "a") }, "a, acknowledged at 100_2, is lost"},
		{"lost from the list", func(_ []op, f *final) { f.list = f.list[:2] }, "list: e, acknowledged"},
		{"doubled", func(_ []op, f *final) { f.list = append(f.list, "b") }, "list: b is there 2 times"},
		{"doubled in the log", func(_ []op, f *final) {
			f.log = append(f.log, engine.LogEntry{Version: engine.Version{Sec: 101, Seq: 1}, Prev: f.version, Author: "b", Body: f.log[2].Body})
		}, "log: b is there 2 times"},
		{"reordered", func(_ []op, f *final) { swap(f, 1, 3) }, "stands after c"},
		{"list reordered", func(_ []op, f *final) { slices.Reverse(f.list) }, "list: b was answered"},
		{"refused and there", func(ops []op, _ *final) { find(ops, "a").state = refused }, "nothing was stored"},
		{"conflict and there", func(ops []op, _ *final) { find(ops, "f").state = conflict }, "nothing was stored"},
		{"other version", func(ops []op, _ *final) { find(ops, "c").version.Seq = 9 }, "acknowledged at 100_9"},
		{"nobody's", func(_ []op, f *final) { f.log[3].Author = "x" }, "nobody wrote"},
		{"other body", func(_ []op, f *final) { f.log[1].Body = []byte(`"b"`) }, "body of a"},
		{"hole in the log", func(_ []op, f *final) { f.log[3].Prev = f.log[1].Version }, "the entry before"},
		{"stale read", func(ops []op, _ *final) {
			ops[len(ops)-4].call, ops[len(ops)-4].ret = ops[len(ops)-1].ret+1, ops[len(ops)-1].ret+2
			ops[4].call, ops[4].ret = 1000, 1001
		}, "porcupine"},
		{"read of nobody's", func(ops []op, _ *final) { ops[1].seen.reg = "z" }, "read at 100_1"},
		{"wrong last document", func(_ []op, f *final) { f.doc.keys++ }, "the last document"},
		{"wrong page", func(ops []op, _ *final) { ops[len(ops)-4].page[2].Author = "z" }, "log page"},
		{"swap over another's write", func(ops []op, _ *final) { find(ops, "f").ifVersion = engine.Version{Sec: 100, Seq: 3} }, "porcupine"},
		{"conflict without one", func(ops []op, f *final) { find(ops, "g").ifVersion = f.version }, "porcupine"},
		{"unknown read before it was sent", func(ops []op, _ *final) {
			o := find(ops, "d")
			o.call, o.ret = 2000, 2001
		}, "porcupine"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ops, f := told()
			tc.spoil(ops, &f)
			v := check(ops, f)
			if tc.want == "" {
				if len(v.wrong) > 0 || v.porcupine != porcupine.Ok || v.unknownCommitted != 1 || v.lost+v.duplicated+v.reordered != 0 {
					t.Errorf("got %v, want nothing wrong", v)
				}
				return
			}
			if got := strings.Join(v.wrong, "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want that it says %q", got, tc.want)
			}
		})
	}
}

// Many clients and many unknown outcomes are no matter for the checker: what is
// open to the end does not make it try every order.
func TestCheckerIsQuick(t *testing.T) {
	t.Parallel()
	var ops []op
	var f final
	for i := range 4000 {
		o := op{kind: opReplace, value: string(rune('a'+i%26)) + time.Duration(i).String(), call: time.Duration(i ^ 3), ret: time.Duration(i + 6)}
		v := engine.Version{Sec: 100, Seq: uint32(i + 1)}
		if i%3 == 0 {
			o.state = unknown
		}
		if i%6 != 0 {
			f.log = append(f.log, engine.LogEntry{Version: v, Prev: f.version, Author: o.value, Body: o.request("").Body})
			f.version, f.doc = v, apply(f.doc, &o)
			if o.state == acked {
				o.version = v
			}
		}
		ops = append(ops, o)
	}
	if v := check(ops, f); len(v.wrong) > 0 {
		t.Errorf("got %v, want nothing wrong", v)
	}
}
