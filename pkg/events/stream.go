package events

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Config says how a lake's streams are to be.
type Config struct {
	Subjects Subjects

	// Replicas of each stream, 1 to 5; default 1. In production 3.
	Replicas int
	// Embedded is for the server inside `lake serve`, which syncs every write:
	// both streams can be rebuilt, so they need not pay for that. It needs one
	// replica, and nats-server 2.12.
	Embedded bool
	// MaxAge of an event; default 72 h.
	MaxAge time.Duration
	// MaxBytes of all events; default 10 GiB, embedded 1 GiB. The oldest go first.
	// The server reserves them as a whole.
	MaxBytes int64
	// AckWait is how long a job may be silent before another worker gets it;
	// default 60 s.
	AckWait time.Duration
	// MaxAckPending is how many jobs may be worked on at once, by all
	// snapshotters together; default 1,024.
	MaxAckPending int
	// Placement in a cluster of servers; nil: anywhere.
	Placement *jetstream.Placement
}

// dedupe is the window in which a stream knows a Nats-Msg-Id again. It has to be
// longer than a relay may go on repeating a round that the stream took.
const dedupe = 10 * time.Minute

// ErrNotApplied: a stream or consumer of the lake does not exist in this NATS
// account, or is not as Apply makes it.
var ErrNotApplied = errors.New("the lake's streams are not there: run `lake streams apply`")

func (c Config) withDefaults() (Config, error) {
	if err := c.Subjects.Validate(); err != nil {
		return c, err
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		return c, fmt.Errorf("%d replicas: a stream has 1 to 5", c.Replicas)
	}
	if c.Embedded && c.Replicas > 1 {
		return c, fmt.Errorf("%d replicas in an embedded server: it is alone, use 1", c.Replicas)
	}
	if c.MaxAge == 0 {
		c.MaxAge = 72 * time.Hour
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 10 << 30
		if c.Embedded {
			c.MaxBytes = 1 << 30
		}
	}
	if c.AckWait == 0 {
		c.AckWait = time.Minute
	}
	if c.MaxAckPending == 0 {
		c.MaxAckPending = 1024
	}
	if c.MaxAge < 0 || c.MaxBytes < 0 || c.AckWait < 0 || c.MaxAckPending < 0 {
		return c, fmt.Errorf("a limit of the streams is negative: %+v", c)
	}
	return c, nil
}

// Codes of the server's refusals.
const (
	streamInvalidConfig = 10052 // such as a change of what cannot be changed
	insufficientStorage = 10047 // MaxBytes is reserved as a whole
)

// streams are the configurations that Apply makes.
func (c Config) streams() []jetstream.StreamConfig {
	mode := jetstream.DefaultPersistMode
	if c.Embedded {
		mode = jetstream.AsyncPersistMode
	}
	events := jetstream.StreamConfig{
		Name:        c.Subjects.EventsStream(),
		Description: "what a lake has committed and folded; metadata only",
		Subjects:    []string{c.Subjects.EveryEvent("")},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Compression: jetstream.S2Compression,
		Discard:     jetstream.DiscardOld,
		MaxAge:      c.MaxAge,
		MaxBytes:    c.MaxBytes,
		MaxMsgSize:  MaxEventBytes + maxHeaderBytes,
		Duplicates:  min(dedupe, c.MaxAge), // the server demands that it is not longer
		AllowDirect: true,
		RePublish: &jetstream.RePublish{
			Source:      c.Subjects.EveryEvent(""),
			Destination: c.Subjects.of(VerbLive) + ".{{wildcard(1)}}.{{wildcard(2)}}",
		},
		Replicas:    c.Replicas,
		Placement:   c.Placement,
		PersistMode: mode,
	}
	// The newest job of a catalog replaces the one before: DiscardOld, because
	// DiscardNew would refuse a job that comes while the one before is worked on,
	// and lose it.
	jobs := jetstream.StreamConfig{
		Name:              c.Subjects.JobsStream(),
		Description:       "catalogs whose snapshot is due, one message each",
		Subjects:          []string{c.Subjects.EveryJob()},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           jetstream.FileStorage,
		Compression:       jetstream.NoCompression,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		MaxMsgSize:        MaxEventBytes + maxHeaderBytes,
		Duplicates:        dedupe,
		Replicas:          c.Replicas,
		Placement:         c.Placement,
		PersistMode:       mode,
	}
	return []jetstream.StreamConfig{events, jobs}
}

// maxHeaderBytes is room for Nats-Msg-Id and a trace context.
const maxHeaderBytes = 4 << 10

// snapshotter is the durable that all snapshotters pull from. It stands on the
// jobs stream, never on the stream of events: who may watch events may pull
// from any consumer of their stream.
func (c Config) snapshotter() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerSnapshotter,
		Description:   "snapshotters share it; its pending count is the number of catalogs that are due",
		FilterSubject: c.Subjects.EveryJob(),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       c.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: c.MaxAckPending,
	}
}

// Apply makes the streams and the consumer of a lake, or changes them to what
// the configuration says. It may be repeated. Only `lake serve` and `lake
// streams apply` call it: were it called by every service, an old one could
// shrink what a new one has made.
func Apply(ctx context.Context, js jetstream.JetStream, c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return fmt.Errorf("apply streams: %w", err)
	}
	for _, want := range c.streams() {
		if _, err := js.CreateOrUpdateStream(ctx, want); err != nil {
			return fmt.Errorf("apply stream %s: %w%s", want.Name, err, applyHint(err, c))
		}
	}
	if _, err := js.CreateOrUpdateConsumer(ctx, c.Subjects.JobsStream(), c.snapshotter()); err != nil {
		return fmt.Errorf("apply consumer %s of stream %s: %w", ConsumerSnapshotter, c.Subjects.JobsStream(), err)
	}
	return nil
}

// applyHint is the next step after a refusal of the server.
func applyHint(err error, c Config) string {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return ""
	}
	switch api.ErrorCode {
	case streamInvalidConfig:
		return " (what cannot be changed needs a new stream: all in it can be rebuilt, so delete it and run `lake streams apply` again)"
	case insufficientStorage:
		return fmt.Sprintf(" (the server has no %d bytes to spare for events: give JetStream more, or the events less)", c.MaxBytes)
	}
	return ""
}

// Drift is a setting of a stream or consumer that is not as configured.
type Drift struct {
	Stream   string
	Consumer string // "" when the stream itself differs
	Field    string // as NATS names it
	Want     any
	Have     any
}

func (d Drift) String() string {
	what := "stream " + d.Stream
	if d.Consumer != "" {
		what = "consumer " + d.Consumer + " of " + what
	}
	return fmt.Sprintf("%s: %s is %v, not %v", what, d.Field, d.Have, d.Want)
}

// Check compares the streams with the configuration and changes nothing. What
// is missing is an error that is ErrNotApplied. What merely differs is drift: a
// service warns of it and works. Fields of c that are zero are not compared,
// since a service need not know how many replicas an operator chose.
func Check(ctx context.Context, js jetstream.JetStream, c Config) ([]Drift, error) {
	given := c
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("check streams: %w", err)
	}
	var drift []Drift
	var missing []error
	for _, want := range c.streams() {
		stream, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			missing = append(missing, fmt.Errorf("stream %s: %w", want.Name, ErrNotApplied))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("check stream %s: %w", want.Name, err)
		}
		drift = append(drift, streamDrift(given, want, stream.CachedInfo().Config)...)
	}
	cons, err := js.Consumer(ctx, c.Subjects.JobsStream(), ConsumerSnapshotter)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // said already
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		missing = append(missing, fmt.Errorf("consumer %s of stream %s: %w", ConsumerSnapshotter, c.Subjects.JobsStream(), ErrNotApplied))
	case err != nil:
		return nil, fmt.Errorf("check consumer %s: %w", ConsumerSnapshotter, err)
	default:
		drift = append(drift, consumerDrift(given, c.snapshotter(), c.Subjects.JobsStream(), cons.CachedInfo().Config)...)
	}
	return drift, errors.Join(missing...)
}

type comparison struct {
	field      string
	want, have any
	skip       bool
}

func differing(stream, consumer string, all []comparison) (drift []Drift) {
	for _, c := range all {
		if !c.skip && !reflect.DeepEqual(c.want, c.have) {
			drift = append(drift, Drift{Stream: stream, Consumer: consumer, Field: c.field, Want: c.want, Have: c.have})
		}
	}
	return drift
}

func streamDrift(given Config, want, have jetstream.StreamConfig) []Drift {
	republish := func(r *jetstream.RePublish) string {
		if r == nil {
			return "none"
		}
		return r.Source + " to " + r.Destination
	}
	return differing(want.Name, "", []comparison{
		{field: "subjects", want: want.Subjects, have: have.Subjects},
		{field: "retention", want: want.Retention, have: have.Retention},
		{field: "storage", want: want.Storage, have: have.Storage},
		{field: "compression", want: want.Compression, have: have.Compression},
		{field: "discard", want: want.Discard, have: have.Discard},
		{field: "max_msgs_per_subject", want: max(want.MaxMsgsPerSubject, -1), have: have.MaxMsgsPerSubject, skip: want.MaxMsgsPerSubject == 0 && have.MaxMsgsPerSubject <= 0},
		{field: "max_age", want: want.MaxAge, have: have.MaxAge, skip: given.MaxAge == 0},
		{field: "max_bytes", want: want.MaxBytes, have: have.MaxBytes, skip: given.MaxBytes == 0 || want.MaxBytes == 0},
		{field: "max_msg_size", want: want.MaxMsgSize, have: have.MaxMsgSize},
		{field: "duplicate_window", want: want.Duplicates, have: have.Duplicates, skip: given.MaxAge == 0 && have.Duplicates >= want.Duplicates},
		{field: "allow_direct", want: want.AllowDirect, have: have.AllowDirect},
		{field: "republish", want: republish(want.RePublish), have: republish(have.RePublish)},
		{field: "num_replicas", want: want.Replicas, have: have.Replicas, skip: given.Replicas == 0},
		{field: "persist_mode", want: want.PersistMode, have: have.PersistMode, skip: !given.Embedded},
	})
}

func consumerDrift(given Config, want jetstream.ConsumerConfig, stream string, have jetstream.ConsumerConfig) []Drift {
	return differing(stream, want.Durable, []comparison{
		{field: "filter_subject", want: want.FilterSubject, have: have.FilterSubject},
		{field: "ack_policy", want: want.AckPolicy, have: have.AckPolicy},
		{field: "ack_wait", want: want.AckWait, have: have.AckWait, skip: given.AckWait == 0},
		{field: "max_deliver", want: want.MaxDeliver, have: have.MaxDeliver},
		{field: "max_ack_pending", want: want.MaxAckPending, have: have.MaxAckPending, skip: given.MaxAckPending == 0},
	})
}
