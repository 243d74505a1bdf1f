package events

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	var s Subjects
	other := Subjects{Prefix: "shop-2"}
	for _, c := range []struct{ got, want string }{
		{s.Write("users"), "lake.v1.write.(users"},
		{s.Read("USERS"), "lake.v1.read.)USERS"},
		{s.Log("Users"), "lake.v1.log.kvzwk4tt"},
		{s.Diff("users"), "lake.v1.diff.(users"},
		{s.Blame("users"), "lake.v1.blame.(users"},
		{s.Outcome("users"), "lake.v1.outcome.(users"},
		{s.Snapshot("users"), "lake.v1.snapshot.(users"},
		{s.Purge("users"), "lake.v1.admin.purge.(users"},
		{s.EveryPurge(), "lake.v1.admin.purge.*"},
		{s.Catalogs(), "lake.v1.catalogs"},
		{s.Event("users", engine.EventCommitted), "lake.v1.event.(users.committed"},
		{s.Event("users", ""), "lake.v1.event.(users.*"},
		{s.Live("users", engine.EventSnapshotted), "lake.v1.live.(users.snapshotted"},
		{s.Live("users", ""), "lake.v1.live.(users.*"},
		{s.Job("users"), "lake.v1.job.snapshot.(users"},
		{s.Every(VerbRead), "lake.v1.read.*"},
		{s.EveryEvent(""), "lake.v1.event.*.*"},
		{s.EveryEvent(engine.EventCommitted), "lake.v1.event.*.committed"},
		{s.EveryLive(""), "lake.v1.live.*.*"},
		{s.EveryJob(), "lake.v1.job.snapshot.*"},
		{s.EventsStream(), "LAKE_EVENTS"},
		{s.JobsStream(), "LAKE_JOBS"},
		{other.Write("users"), "shop-2.v1.write.(users"},
		{other.EventsStream(), "SHOP-2_EVENTS"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

func TestSubjectsValidate(t *testing.T) {
	t.Parallel()
	for prefix, ok := range map[string]bool{
		"": true, "lake": true, "a_b-3": true, "Lake": false, "a.b": false, "a b": false, "*": false, ">": false, "ä": false,
		strings.Repeat("a", 33): false,
	} {
		err := Subjects{Prefix: prefix}.Validate()
		if got := err == nil; got != ok {
			t.Errorf("prefix %q: got %v, want ok %v", prefix, err, ok)
		}
		if err != nil && !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("prefix %q: %v is not ErrInvalid", prefix, err)
		}
	}
}

func TestSubjectsCatalog(t *testing.T) {
	t.Parallel()
	s := Subjects{Prefix: "lake"}
	for _, c := range []struct {
		subject, want string // "": an error
	}{
		{"lake.v1.write.(users", "users"},
		{"lake.v1.read.kvzwk4tt", "Users"},
		{"lake.v1.event.(users.committed", "users"},
		{"lake.v1.live.4s4k3zuwq4.snapshotted", "中文"},
		{"lake.v1.admin.purge.(users", "users"},
		{"lake.v1.admin.(users", ""},
		{"lake.v1.admin.purge", ""},
		{"lake.v1.admin.purge.", ""},
		{"lake.v1.catalogs", ""},
		{"lake.v1.write", ""},
		{"lake.v1.write.", ""},
		{"lake.v1.write.*", ""},
		{"lake.v1.write.(", ""},
		{"lake.v1.write.(USERS", ""},
		{"lake.v1.write.users", ""}, // not base32
		{"lake.v2.write.(users", ""},
		{"pond.v1.write.(users", ""},
		{"lake", ""},
		{"", ""},
		{"lake.v1.job.snapshot.(users", ""}, // position 4 is no catalog
	} {
		got, err := s.Catalog(c.subject)
		if c.want == "" {
			if !errors.Is(err, engine.ErrInvalid) {
				t.Errorf("%q: got %q, %v, want ErrInvalid", c.subject, got, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.subject, got, err, c.want)
		}
	}
	if got, err := s.JobCatalog(s.Job("Ünïcode.1")); err != nil || got != "Ünïcode.1" {
		t.Errorf("job: got %q, %v", got, err)
	}
	for _, subject := range []string{"lake.v1.job.(users", "lake.v1.job.snapshot.(users.x", "lake.v1.job.snapshot.", "pond.v1.job.snapshot.(users"} {
		if got, err := s.JobCatalog(subject); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%q: got %q, %v, want ErrInvalid", subject, got, err)
		}
	}
}

func FuzzSubjectsCatalog(f *testing.F) {
	for _, s := range []string{"lake.v1.write.(users", "lake.v1.event.)USERS.committed", "lake.v1.read.kvzwk4tt", "lake.v1.job.snapshot.(a", "...."} {
		f.Add(s)
	}
	var s Subjects
	f.Fuzz(func(t *testing.T, subject string) {
		if catalog, err := s.Catalog(subject); err == nil {
			again, err := s.Catalog(s.Read(catalog))
			if err != nil || again != catalog {
				t.Errorf("%q gives %q, which gives %q, %v", subject, catalog, again, err)
			}
			if !strings.Contains(subject, "."+engine.EncodeCatalog(catalog)) {
				t.Errorf("%q does not name %q", subject, catalog)
			}
		}
		if catalog, err := s.JobCatalog(subject); err == nil && s.Job(catalog) != subject {
			t.Errorf("%q gives %q, whose job is %q", subject, catalog, s.Job(catalog))
		}
	})
}

func TestUnknownHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		h    nats.Header
		want string
	}{
		{"none", nil, ""},
		{"known", nats.Header{HeaderPath: {"/a"}, HeaderIfVersion: {"0_0"}, HeaderMsgID: {"1"}, "traceparent": {"x"}}, ""},
		{"others", nats.Header{"X-Mine": {"1"}, "Lakeside": {"1"}, "Lake": {"1"}}, ""},
		{"misspelt", nats.Header{HeaderPath: {"/a"}, "Lake-If-Verison": {"0_0"}}, "Lake-If-Verison"},
		{"wrong case", nats.Header{"lake-path": {"/a"}}, "lake-path"},
		{"a reply's", nats.Header{HeaderVersion: {"1_1"}}, HeaderVersion},
		{"first by name", nats.Header{"Lake-Z": {"1"}, "Lake-B": {"1"}}, "Lake-B"},
	} {
		if got := UnknownHeader(c.h); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
