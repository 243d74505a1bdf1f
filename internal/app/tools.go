package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"sync"
	"time"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
)

// tool opens the lake of a configuration, without background work, for one job:
// the distributed lake if the configuration names a bucket, else the embedded one.
func tool(ctx context.Context, c *Config, name string, errOut io.Writer, change func(*engine.Options), job func(*engine.Engine) error) error {
	p, err := newProcess(c, name, errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	var parts *lake.Parts
	if c.S3 != "" {
		parts, err = p.openServers(ctx)
	} else {
		var dir string
		if dir, err = absolute(c.Data); err == nil {
			parts, err = p.openParts(ctx, lake.DirURL(dir))
		}
	}
	if err != nil {
		return serveHint(err, c)
	}
	o := parts.Options
	change(&o)
	e, err := engine.New(ctx, parts.Index, parts.Objects, o)
	if err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = e.Close(cctx)
	}()
	return job(e)
}

// Collect makes one collection of garbage.
func Collect(ctx context.Context, c *Config, dry bool, errOut io.Writer) (did engine.Collected, err error) {
	err = tool(ctx, c, "gc", errOut, func(o *engine.Options) {
		o.CollectRate = 1 << 20 // whoever asks wants it done
	}, func(e *engine.Engine) (err error) {
		did, err = e.Collect(ctx, dry)
		return err
	})
	return did, err
}

// Rebuilt tells what a rebuild did.
type Rebuilt struct {
	Epoch    uint64  `json:"epoch"`
	Catalogs int     `json:"catalogs"`
	Seconds  float64 `json:"seconds"`
	// Steps are what the time went to, in their order.
	Steps []RebuildStep `json:"steps"`
	// Accepted are the losses that this rebuild accepted.
	Accepted []engine.Loss `json:"accepted"`
}

// RebuildStep is one step of opening the new epoch, or a part of one.
type RebuildStep struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// stepTimes measures steps that follow each other.
type stepTimes struct {
	list  []RebuildStep
	began time.Time
}

// next ends the step before and begins another; one that goes on is not another.
func (s *stepTimes) next(name string) {
	n := len(s.list)
	if n > 0 && s.list[n-1].Step == name {
		return
	}
	now := time.Now()
	if n > 0 {
		s.list[n-1].Seconds = now.Sub(s.began).Seconds()
	}
	s.list, s.began = append(s.list, RebuildStep{Step: name}), now
}

// end ends the last step.
func (s *stepTimes) end() []RebuildStep {
	s.next("")
	return s.list[:len(s.list)-1]
}

// Rebuild empties the index and fills it from the bucket, in a new epoch. accept names
// damaged objects whose loss is accepted; see engine.Options.AcceptLoss. step is
// told of each step as it begins, progress how far a long one is. Other processes of a
// distributed lake join the new epoch by themselves.
func Rebuild(ctx context.Context, c *Config, accept []string, step func(string), progress func(step string, done, total int), errOut io.Writer) (Rebuilt, error) {
	begin := time.Now()
	r := Rebuilt{Accepted: []engine.Loss{}}
	var mu sync.Mutex // shards are filled side by side
	var times stepTimes
	err := tool(ctx, c, "rebuild", errOut, func(o *engine.Options) {
		o.Rebuild, o.AcceptLoss, o.AcceptedBy = true, accept, whoAmI()
		o.Hooks = telemetry.JoinHooks(o.Hooks, engine.Hooks{Recovering: func(_ uint64, s string) {
			mu.Lock()
			defer mu.Unlock()
			if s != "empty" { // of a shard, beside the adoption of snapshots
				times.next(s)
			}
			step(s)
		}, RecoverProgress: func(part string, done, total int) {
			mu.Lock()
			defer mu.Unlock()
			if done == 0 { // a part of restoring begins
				times.next(part)
			}
			progress(part, done, total)
		}, LossAccepted: func(l engine.Loss) {
			mu.Lock()
			defer mu.Unlock()
			r.Accepted = append(r.Accepted, l)
		}})
	}, func(e *engine.Engine) error {
		r.Epoch, r.Seconds, r.Steps = e.Epoch(), time.Since(begin).Seconds(), times.end()
		for after := ""; ; {
			page, err := e.Catalogs(ctx, "", after, 1000)
			if err != nil {
				return fmt.Errorf("count the catalogs of the rebuilt index: %w", err)
			}
			r.Catalogs += len(page)
			if len(page) < 1000 {
				return nil
			}
			after = page[len(page)-1].Catalog
		}
	})
	return r, err
}

// whoAmI names who runs this program, for a record that people read.
func whoAmI() string {
	name, host := "somebody", "an unknown host"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// Verify compares the index with the bucket; see engine.Engine.Verify. It joins the
// lake like a service, and opens a new epoch only if the index needs one.
func Verify(ctx context.Context, c *Config, req engine.VerifyRequest, errOut io.Writer) (did engine.Verified, err error) {
	err = tool(ctx, c, "verify", errOut, func(*engine.Options) {}, func(e *engine.Engine) (err error) {
		did, err = e.Verify(ctx, req)
		return err
	})
	return did, err
}
