package s3_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
)

// Directories come and go under versitygw while objects are put into and
// removed from them: no put may fail for that,
// and no listing.
func TestPutBesideDelete(t *testing.T) {
	t.Parallel()
	o := open(t, configOf(&testenv.S3Versity(t).S3Server))
	if err := o.Put(t.Context(), "a/z", nil); err != nil {
		t.Fatal(err)
	}
	var wg, writers sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			seen := false
			for info, err := range o.List(t.Context(), "a/", "") {
				if err != nil {
					t.Errorf("list: %v", err)
					return
				}
				seen = seen || info.Key == "a/z"
			}
			if !seen {
				t.Error("a listing misses an object that was there all the time")
				return
			}
		}
	})
	for w := range 8 {
		writers.Go(func() {
			for i := range 30 {
				key := fmt.Sprintf("a/b/c%d/%d-%d", i%3, w, i)
				if err := o.Put(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
					return
				}
				if got, err := o.Get(t.Context(), key); err != nil || string(got) != key {
					t.Errorf("get %s = %q, %v", key, got, err)
					return
				}
				if err := o.Delete(t.Context(), key); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	wg.Wait()
	if keys := keysOf(t, o, "", ""); len(keys) != 1 {
		t.Errorf("left are %q, want a/z", keys)
	}
}
