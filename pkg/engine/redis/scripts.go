package redis

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // how Redis names scripts
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// script is a Lua script with its includes in place.
type script struct {
	name, source, sha string
}

// maxTogether is how many runs one script has of several shards at most: what it does holds
// everybody up.
const maxTogether = 128

// scripts are all scripts of the index. Each file says what its script takes,
// returns and keeps true.
type scripts struct {
	precommit, commit, rollback, resolve, view, fold, trim, restore, adopt, heartbeat, stuck, read,
	epochs, fence, purge, open, trimout, lease, receipts, outcome,
	garbage, unused, abandon, forget, drop, relocate, condemn, empty, segments *script
	all []*script
}

// loadScripts reads the scripts. edit, when given, changes each source: tests
// set clocks with it.
func loadScripts(edit func(string) string) (*scripts, error) {
	s := &scripts{}
	for name, to := range map[string]**script{
		"precommit": &s.precommit, "commit": &s.commit, "rollback": &s.rollback, "resolve": &s.resolve, "view": &s.view,
		"fold": &s.fold, "trim": &s.trim, "restore": &s.restore, "adopt": &s.adopt, "heartbeat": &s.heartbeat, "stuck": &s.stuck,
		"read": &s.read, "epochs": &s.epochs, "fence": &s.fence, "purge": &s.purge, "open": &s.open, "trimout": &s.trimout, "lease": &s.lease,
		"receipts": &s.receipts, "outcome": &s.outcome, "garbage": &s.garbage, "unused": &s.unused, "abandon": &s.abandon, "forget": &s.forget,
		"drop": &s.drop, "relocate": &s.relocate, "condemn": &s.condemn, "empty": &s.empty, "segments": &s.segments,
	} {
		source, err := scriptSource(name)
		if err != nil {
			return nil, err
		}
		if edit != nil {
			source = edit(source)
		}
		sum := sha1.Sum([]byte(source)) //nolint:gosec // how Redis names scripts
		*to = &script{name: name, source: source, sha: hex.EncodeToString(sum[:])}
		s.all = append(s.all, *to)
	}
	return s, nil
}

// scriptSource is lua/{name}.lua with every line "--#include x" replaced by
// lua/x.inc.lua. Comments are left out: the server keeps the text.
func scriptSource(name string) (string, error) {
	b, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		return "", fmt.Errorf("script %s: %w", name, err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		code := strings.TrimSpace(line)
		if include, ok := strings.CutPrefix(code, "--#include "); ok {
			source, err := scriptSource(include + ".inc")
			if err != nil {
				return "", err
			}
			out.WriteString(source)
		} else if code != "" && !strings.HasPrefix(code, "--") {
			out.WriteString(line)
		}
	}
	return out.String(), nil
}

// load puts all scripts into the script caches of all masters.
func (x *Index) load(ctx context.Context) error {
	one := func(ctx context.Context, c redis.Cmdable) error {
		p := c.Pipeline()
		for _, s := range x.scripts.Load().all {
			p.ScriptLoad(ctx, s.source)
		}
		_, err := p.Exec(ctx)
		return err
	}
	var err error
	if cluster, ok := x.admin.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return one(ctx, c) })
	} else {
		err = one(ctx, x.admin)
	}
	if err != nil {
		return unavailable("load scripts", err)
	}
	return nil
}

// call is what a script does in one shard: what goes out, then what came back.
type call struct {
	script *script
	shard  int
	keys   []string
	args   []any

	// values are the shard's own arguments (type values) of a script that may do several
	// shards, "" of one that does not; args are then those of all of them. runs is how many
	// there are in the shard.
	values string
	runs   int

	status string // first element of the reply
	reply  []any  // the rest
	err    error
}

// cmd is the command of calls that one script does.
func cmd(ctx context.Context, calls []*call) *redis.Cmd {
	one := calls[0]
	keys, args := 0, len(one.args)
	for _, c := range calls {
		keys += len(c.keys)
	}
	list := make([]any, 0, 3+keys+args+len(calls))
	list = append(list, "evalsha", one.script.sha, strconv.Itoa(keys))
	for _, c := range calls {
		for i := range c.keys {
			if len(list) == 3 {
				list = append(list, c.keys[0]) // the client of a cluster looks for a string here
			} else {
				list = append(list, &c.keys[i])
			}
		}
	}
	list = append(list, one.args...)
	for _, c := range calls {
		if c.values != "" {
			list = append(list, &c.values)
		}
	}
	cmd := redis.NewCmd(ctx, list...)
	cmd.SetFirstKeyPos(3)
	return cmd
}

// together are the calls by the script that does them: of a segment a script does several
// shards, so that what it asks and pays once is for all of them; but not where shards are apart.
func together(calls []*call, apart bool) (list [][]*call) {
	runs := 0
	for i, c := range calls {
		if runs += c.runs; i == 0 || apart || c.values == "" || c.script != calls[i-1].script || runs > maxTogether {
			list, runs = append(list, calls[i:i:len(calls)]), c.runs
		}
		last := &list[len(list)-1]
		*last = (*last)[:len(*last)+1]
	}
	return list
}

// run sends all calls in one round trip to each server and fills in what came
// back. A script that a server does not know means a server that was started
// anew, or a slot that moved: only after the epochs of the shards concerned were
// checked again are the scripts loaded and these calls repeated.
func (x *Index) run(ctx context.Context, client redis.UniversalClient, calls []*call) {
	x.exec(ctx, client, calls)
	var again []*call
	for _, c := range calls {
		if c.err != nil && redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			again = append(again, c)
		}
	}
	if len(again) == 0 {
		finish(calls)
		return
	}
	if client == x.work {
		again = x.recheck(ctx, again)
	}
	if len(again) > 0 {
		if err := x.load(ctx); err != nil {
			for _, c := range again {
				c.err = err
			}
		} else {
			x.exec(ctx, client, again)
		}
	}
	finish(calls)
}

// exec sends calls and leaves replies and errors as they came.
func (x *Index) exec(ctx context.Context, client redis.UniversalClient, calls []*call) {
	shared := together(calls, x.apart)
	cmds := make([]*redis.Cmd, len(shared))
	if len(shared) == 1 {
		cmds[0] = cmd(ctx, shared[0])
		_ = client.Process(ctx, cmds[0]) // the command keeps its error
	} else {
		pipe := client.Pipeline()
		for i, calls := range shared {
			cmds[i] = cmd(ctx, calls)
			_ = pipe.Process(ctx, cmds[i]) // queued
		}
		_, _ = pipe.Exec(ctx) // every command keeps its own error
	}
	for i, calls := range shared {
		v, err := cmds[i].Result()
		answers := []any{v}
		if calls[0].values != "" {
			answers, _ = v.([]any)
		}
		for j, c := range calls {
			c.status, c.reply, c.err = "", nil, nil
			if err != nil && (v == nil || isServerError(err)) {
				c.err = err
				continue
			}
			// A reply beside an error of another kind did come: when the context ends
			// while one node of a cluster is silent, the client marks what the other
			// nodes have answered, too.
			if len(answers) != len(calls) {
				continue
			}
			if reply, _ := answers[j].([]any); len(reply) > 0 {
				c.status, _ = reply[0].(string)
				c.reply = reply[1:]
			}
		}
	}
}

// isServerError tells an error that a server answered from one of the client.
func isServerError(err error) bool {
	var e redis.Error
	return errors.As(err, &e)
}

// finish gives statuses and errors that every caller treats alike their names.
func finish(calls []*call) {
	for _, c := range calls {
		switch {
		case c.err != nil:
			c.err = unavailable(c.script.name, c.err)
		case c.status == "": // whatever this server is, it did not run our script
			c.err = fmt.Errorf("%s in shard %x: no status in the reply: %w", c.script.name, c.shard, engine.ErrUnavailable)
		case c.status == "EPOCH":
			c.err = fmt.Errorf("%s in shard %x: %w", c.script.name, c.shard, engine.ErrEpoch)
		}
	}
}

// recheck asks, without cached scripts, whether the shards of calls are still on
// the servers that were fenced. It gives the calls that may be repeated; the
// others have their error.
func (x *Index) recheck(ctx context.Context, calls []*call) (good []*call) {
	epochs := x.scripts.Load().epochs
	var checks []*redis.Cmd
	pipe := x.admin.Pipeline()
	for _, c := range calls {
		k := &x.keys[c.shard]
		checks = append(checks, pipe.Eval(ctx, epochs.source, []string{k.heads, k.catalogs}))
	}
	_, _ = pipe.Exec(ctx) // every command keeps its own error
	for i, c := range calls {
		reply, err := checks[i].Slice()
		if err != nil || len(reply) == 0 {
			c.err = cmp.Or(err, engine.ErrUnavailable)
			continue
		}
		if shard, err := parseEpochs(reply[1:]); err != nil {
			c.err = err
		} else if !shard.Same {
			c.err = fmt.Errorf("shard %x is on a server that does not know its scripts and was not fenced: %w", c.shard, engine.ErrEpoch)
		} else {
			good = append(good, c)
		}
	}
	return good
}

// text is a string of a reply, "" when it is not one.
func (c *call) text(i int) string {
	if i >= len(c.reply) {
		return ""
	}
	s, _ := c.reply[i].(string)
	return s
}

// texts is an array of strings in a reply.
func (c *call) texts(i int) []string {
	if i >= len(c.reply) {
		return nil
	}
	list, _ := c.reply[i].([]any)
	out := make([]string, len(list))
	for j, v := range list {
		out[j], _ = v.(string)
	}
	return out
}

// unavailable wraps what a server or the network answered. Errors of the
// contract that are inside keep their identity.
func unavailable(action string, err error) error {
	switch {
	case errors.Is(err, engine.ErrEpoch), errors.Is(err, engine.ErrUnavailable), errors.Is(err, engine.ErrClosed):
		return fmt.Errorf("%s: %w", action, err)
	case errors.Is(err, redis.ErrClosed):
		return fmt.Errorf("%s: redis index: %w", action, engine.ErrClosed)
	}
	return fmt.Errorf("%s: redis: %w: %w", action, engine.ErrUnavailable, err)
}
