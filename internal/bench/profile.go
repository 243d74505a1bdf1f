package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"
)

// profiled runs a load and, with --cpuprofile, takes the CPU of this program and
// of every process of the lake meanwhile, and what these have allocated since they
// started: {name}-{process}.cpu and .allocs, for `go tool pprof`. The files are
// those of the last round. The profiling itself costs a few percent.
func (b *bench) profiled(ctx context.Context, l *lab, name string, load func() (*loaded, error)) (*loaded, error) {
	if b.CPUProfile == "" || len(l.ops) == 0 {
		return load()
	}
	at := func(process, kind string) string {
		return filepath.Join(b.CPUProfile, name+"-"+process+"."+kind)
	}
	own, err := os.Create(at("client", "cpu"))
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if err := pprof.StartCPUProfile(own); err != nil {
		return nil, err
	}
	defer pprof.StopCPUProfile()
	var wg sync.WaitGroup
	seconds := min(max(int(b.Duration/time.Second), 1), maxProfile)
	for process, ops := range l.ops {
		wg.Go(func() {
			for _, p := range []struct{ kind, url string }{
				{"cpu", fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", ops, seconds)}, {"allocs", "http://" + ops + "/debug/pprof/allocs"},
			} {
				body, err := fetchWithin(ctx, p.url, b.Duration+30*time.Second)
				if err == nil {
					err = os.WriteFile(at(process, p.kind), body, 0o600)
				}
				if err != nil {
					b.say("profile of %s: %v", process, err)
				}
			}
		})
	}
	loaded, err := load()
	wg.Wait()
	return loaded, err
}

// profileFlags make a process give profiles.
func (b *bench) profileFlags() []string {
	if b.CPUProfile == "" {
		return nil
	}
	return []string{"--pprof"}
}

// maxProfile is the longest profile, seconds, that an operations port gives before
// its own time runs out.
const maxProfile = 25
