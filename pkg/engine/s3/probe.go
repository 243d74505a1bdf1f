package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

const (
	probePrefix = "_lake/probe/"
	probeRounds = 3 // the first one also opens the connections that the others race over
	probeRacers = 8
	probeBody   = 512 // bytes

	// probeTimeout bounds the probe at start: each request has its own deadline,
	// but a store that is slow in every one of them should not look like a hang.
	probeTimeout = time.Minute
)

// Probe tries the store out under _lake/probe/ and removes what it put there:
//
//	three times  eight racers put different bodies under one key
//	               more than one is told that it won     → refused
//	               none is, and the object is nobody's   → refused
//	             the object is the winner's, whole and by ranges
//	             a range past its end is an error
//	             one more put finds it there
//	then         all keys are listed, in order and after a key
//	             a removed key is gone
//
// A store that fails a step gets an error that wraps ErrRefused and says what
// it did. An error without ErrRefused means that the store could not be tried:
// it is away, or refuses these credentials.
func (o *Objects) Probe(ctx context.Context) (err error) {
	var id [10]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("probe: draw a key: %w", err)
	}
	prefix := probePrefix + strings.ToLower(base32.StdEncoding.EncodeToString(id[:])) + "-"
	var keys []string
	defer func() {
		// Even when the caller gave up: nobody else knows of these objects.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.cfg.GetTimeout)
		defer cancel()
		for _, key := range keys {
			if e := o.Delete(ctx, key); e != nil && err == nil {
				err = fmt.Errorf("probe: %w", e)
			}
		}
	}()
	for round := range probeRounds {
		key := fmt.Sprintf("%s%d", prefix, round)
		keys = append(keys, key)
		if err := o.probeRace(ctx, key); err != nil {
			return err
		}
	}
	if err := o.probeList(ctx, prefix, keys); err != nil {
		return err
	}
	if err := o.Delete(ctx, keys[0]); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if _, err := o.Get(ctx, keys[0]); err == nil {
		return o.refuse("an object that was deleted can still be read")
	} else if !errors.Is(err, engine.ErrNotExist) {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

func (o *Objects) refuse(format string, args ...any) error {
	return fmt.Errorf("bucket %s at %s: %s: %w (profile %s); use another store or profile", o.cfg.Bucket, o.where(), fmt.Sprintf(format, args...), ErrRefused, o.cfg.Profile)
}

// probeRace holds one key to its single winner.
func (o *Objects) probeRace(ctx context.Context, key string) error {
	bodies := make([][]byte, probeRacers)
	results := make([]error, probeRacers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte('a' + i)}, probeBody)
		bodies[i][probeBody-1] = '\n'
		wg.Go(func() {
			<-start
			results[i] = o.Put(ctx, key, bodies[i])
		})
	}
	close(start)
	wg.Wait()

	winner, winners := -1, 0
	for i, err := range results {
		switch {
		case err == nil:
			winner, winners = i, winners+1
		case !errors.Is(err, engine.ErrExists):
			return fmt.Errorf("probe: %w", err)
		}
	}
	if winners > 1 {
		return o.refuse("%d of %d create-only puts of one key were told that they created it", winners, probeRacers)
	}
	data, err := o.Get(ctx, key)
	if errors.Is(err, engine.ErrNotExist) {
		return o.refuse("an object that was just put cannot be read")
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if winners == 0 {
		// Legal: the winner's answer was lost, and its own retry found it there.
		for i := range bodies {
			if bytes.Equal(data, bodies[i]) {
				winner = i
			}
		}
	}
	if winner < 0 || !bytes.Equal(data, bodies[winner]) {
		return o.refuse("an object reads back as something else than what its creator put")
	}
	if err := o.probeRanges(ctx, key, data); err != nil {
		return err
	}
	switch err := o.Put(ctx, key, []byte("late")); {
	case err == nil:
		return o.refuse("a create-only put replaced an object that was there")
	case !errors.Is(err, engine.ErrExists):
		return fmt.Errorf("probe: %w", err)
	}
	if data, err = o.Get(ctx, key); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if !bytes.Equal(data, bodies[winner]) {
		return o.refuse("a refused put changed the object")
	}
	return nil
}

func (o *Objects) probeRanges(ctx context.Context, key string, data []byte) error {
	size := int64(len(data))
	for _, r := range [][2]int64{{0, 1}, {size - 2, 2}, {0, size}} {
		part, err := o.GetRange(ctx, key, r[0], r[1])
		if errors.Is(err, engine.ErrUnavailable) || ctx.Err() != nil {
			return fmt.Errorf("probe: %w", err)
		}
		if err != nil {
			return o.refuse("ranged reads do not work (%v)", err)
		}
		if !bytes.Equal(part, data[r[0]:r[0]+r[1]]) {
			return o.refuse("a ranged read answers with other bytes")
		}
	}
	switch _, err := o.GetRange(ctx, key, size-1, 2); {
	case err == nil:
		return o.refuse("a ranged read past the end is answered")
	case !errors.Is(err, engine.ErrDamaged):
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

func (o *Objects) probeList(ctx context.Context, prefix string, keys []string) error {
	for after := range len(keys) + 1 {
		from := ""
		if after > 0 {
			from = keys[after-1]
		}
		var got []string
		for info, err := range o.List(ctx, prefix, from) {
			if err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			if info.Size != probeBody {
				return o.refuse("an object of %d bytes is listed with %d", probeBody, info.Size)
			}
			got = append(got, info.Key)
		}
		if want := keys[after:]; strings.Join(got, " ") != strings.Join(want, " ") {
			return o.refuse("a listing shows %d of %d objects that were just put", len(got), len(want))
		}
	}
	return nil
}
