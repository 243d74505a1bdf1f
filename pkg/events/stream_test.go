package events

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

func TestApply(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatalf("again: %v", err)
	}
	if drift, err := Check(ctx, js, Config{Replicas: 1, MaxAge: 72 * time.Hour, MaxBytes: testBytes, AckWait: time.Minute, MaxAckPending: 1024}); err != nil || len(drift) != 0 {
		t.Fatalf("check after apply: %v, %v", drift, err)
	}

	if err := Apply(ctx, js, Config{MaxBytes: 1 << 50}); err == nil || !strings.Contains(err.Error(), "or the events less") {
		t.Errorf("more than the server has: got %v", err)
	}

	// What can be changed is changed.
	changed := Config{MaxAge: time.Hour, MaxBytes: 1 << 20, AckWait: 7 * time.Second, MaxAckPending: 5}
	if drift, err := Check(ctx, js, changed); err != nil || len(drift) != 4 {
		t.Errorf("check: got %v, %v, want four drifts", drift, err)
	}
	if err := Apply(ctx, js, changed); err != nil {
		t.Fatalf("change: %v", err)
	}
	if drift, err := Check(ctx, js, changed); err != nil || len(drift) != 0 {
		t.Errorf("check after the change: %v, %v", drift, err)
	}

	// What is republished arrives at plain subscriptions.
	var s Subjects
	sub, err := js.Conn().SubscribeSync(s.Live("users", ""))
	if err != nil {
		t.Fatal(err)
	}
	m, err := eventMessage(s, span("users", 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(ctx, m.msg); err != nil {
		t.Fatal(err)
	}
	live, err := sub.NextMsg(patience)
	if err != nil || live.Subject != s.Live("users", engine.EventCommitted) || string(live.Data) != string(m.msg.Data) {
		t.Errorf("live: got %+v, %v", live, err)
	}
}

func TestApplyEmbedded(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	srv := testenv.NATS(t, func(o *server.Options) { o.SyncAlways = true })
	c := Config{Embedded: true}
	js := natsOf(t, srv, c)
	for _, name := range []string{"LAKE_EVENTS", "LAKE_JOBS"} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.PersistMode; got != jetstream.AsyncPersistMode {
			t.Errorf("%s: got %v, want async", name, got)
		}
	}
	if drift, err := Check(ctx, js, c); err != nil || len(drift) != 0 {
		t.Errorf("check: %v, %v", drift, err)
	}
	// The mode cannot be changed: the error has the next step.
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err == nil || !strings.Contains(err.Error(), "delete it and run `lake streams apply`") {
		t.Errorf("got %v", err)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"prefix": {Subjects: Subjects{Prefix: "a.b"}}, "replicas": {Replicas: 6}, "negative replicas": {Replicas: -1},
		"embedded cluster": {Embedded: true, Replicas: 3}, "negative age": {MaxAge: -1}, "negative bytes": {MaxBytes: -1},
	} {
		if err := Apply(t.Context(), nil, c); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := Check(t.Context(), nil, c); err == nil {
			t.Errorf("%s: no error from Check", name)
		}
	}
}

func TestTwoLakesInOneAccount(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	other := Config{Subjects: Subjects{Prefix: "pond"}, MaxBytes: testBytes}
	if err := Apply(contextFor(t), js, other); err != nil {
		t.Fatal(err)
	}
	if drift, err := Check(contextFor(t), js, other); err != nil || len(drift) != 0 {
		t.Errorf("check: %v, %v", drift, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := connect(t, testenv.NATS(t).URL)
	if _, err := Check(ctx, js, Config{}); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "LAKE_EVENTS") || !strings.Contains(err.Error(), "LAKE_JOBS") {
		t.Errorf("nothing there: got %v", err)
	}
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(ctx, "LAKE_JOBS", ConsumerSnapshotter); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(ctx, js, Config{}); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "consumer snapshotter") {
		t.Errorf("no consumer: got %v", err)
	}
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatal(err)
	}

	// Somebody changes what matters.
	stream, err := js.Stream(ctx, "LAKE_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	c.RePublish, c.AllowDirect, c.Duplicates = nil, false, time.Minute
	if _, err := js.UpdateStream(ctx, c); err != nil {
		t.Fatal(err)
	}
	jobs, err := js.Stream(ctx, "LAKE_JOBS")
	if err != nil {
		t.Fatal(err)
	}
	c = jobs.CachedInfo().Config
	c.MaxMsgsPerSubject = 10
	if _, err := js.UpdateStream(ctx, c); err != nil {
		t.Fatal(err)
	}
	drift, err := Check(ctx, js, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range drift {
		got = append(got, d.Stream+" "+d.Field)
		if s := d.String(); !strings.Contains(s, d.Field) || !strings.Contains(s, d.Stream) {
			t.Errorf("drift says %q", s)
		}
	}
	want := "LAKE_EVENTS duplicate_window, LAKE_EVENTS allow_direct, LAKE_EVENTS republish, LAKE_JOBS max_msgs_per_subject"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}
