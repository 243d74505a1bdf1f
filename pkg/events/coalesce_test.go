package events

import (
	"slices"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

func fold(catalog string, prev, version int) engine.Event {
	ev := span(catalog, prev, version)
	ev.Kind = engine.EventSnapshotted
	return ev
}

func purged(catalog string, version int) engine.Event {
	ev := span(catalog, 0, version)
	ev.Kind = engine.EventPurged
	return ev
}

func TestCoalesce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		in, want []engine.Event
	}{
		{"nothing", nil, nil},
		{"one", []engine.Event{span("a", 0, 3)}, []engine.Event{span("a", 0, 3)}},
		{"contiguous", []engine.Event{span("a", 0, 3), span("a", 3, 4), span("a", 4, 9)}, []engine.Event{span("a", 0, 9)}},
		{"catalogs", []engine.Event{span("a", 0, 3), span("b", 1, 4), span("a", 3, 4), span("b", 4, 5)}, []engine.Event{span("a", 0, 4), span("b", 1, 5)}},
		{"fold between", []engine.Event{span("a", 0, 3), fold("a", 0, 3), span("a", 3, 4), fold("a", 3, 4)},
			[]engine.Event{span("a", 0, 4), fold("a", 0, 3), fold("a", 3, 4)}},
		{"fold first", []engine.Event{fold("a", 0, 3), span("a", 3, 4)}, []engine.Event{fold("a", 0, 3), span("a", 3, 4)}},
		{"purge between", []engine.Event{span("a", 0, 3), span("a", 3, 4), purged("a", 4), span("a", 4, 5), span("a", 5, 6)},
			[]engine.Event{span("a", 0, 4), purged("a", 4), span("a", 4, 6)}},
		{"doubled", []engine.Event{span("a", 0, 3), span("a", 0, 3), span("a", 1, 2), span("a", 3, 4)}, []engine.Event{span("a", 0, 4)}},
		{"overlapping", []engine.Event{span("a", 0, 3), span("a", 2, 5), span("a", 5, 6)}, []engine.Event{span("a", 0, 3), span("a", 2, 6)}},
		{"gap", []engine.Event{span("a", 0, 3), span("a", 4, 5)}, []engine.Event{span("a", 0, 3), span("a", 4, 5)}},
		{"going back", []engine.Event{span("a", 5, 7), span("a", 0, 5)}, []engine.Event{span("a", 5, 7), span("a", 0, 5)}},
	} {
		var got []engine.Event
		for _, h := range coalesce([]engine.OutboxBatch{{Events: c.in}}) {
			got = append(got, h.events...)
		}
		for i := range got {
			got[i].Bytes = 1 // summed up
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestCoalesceSums(t *testing.T) {
	t.Parallel()
	a, b := span("a", 0, 3), span("a", 3, 4)
	a.Bytes, a.Author, a.Time, a.LiveDeltas = 100, "alice", 1, 5
	b.Bytes, b.Author, b.Time, b.LiveDeltas, b.DocBytes = 11, "bob", 2, 6, 7
	got := coalesce([]engine.OutboxBatch{{Events: []engine.Event{a}}, {Events: []engine.Event{b}}})[0].events[0]
	want := b
	want.First, want.Prev, want.Count, want.Bytes = a.First, a.Prev, 4, 111
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
