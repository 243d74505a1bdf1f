package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

// drop removes a header before the store sees it, as a store that does not know
// it would.
func drop(header string) wrap {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del(header)
			next.ServeHTTP(w, r)
		})
	}
}

// blindOnce lets one in every n create-only puts overwrite: a store that checks
// and then writes, without doing both at once.
func checkThenWrite() wrap {
	return func(next http.Handler) http.Handler {
		var mu sync.Mutex
		inside := map[string]int{}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				next.ServeHTTP(w, r)
				return
			}
			mu.Lock()
			inside[r.URL.Path]++
			racing := inside[r.URL.Path] > 1
			mu.Unlock()
			if racing {
				r.Header.Del("If-None-Match")
			}
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(w, r)
		})
	}
}

// rewrite changes the body of answers to GET.
func rewrite(change func(r *http.Request, body []byte) []byte) wrap {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if rec.Code < 300 {
				body = change(r, body)
			}
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.WriteHeader(rec.Code)
			w.Write(body)
		})
	}
}

func isList(r *http.Request) bool { return r.URL.Query().Has("list-type") }

func TestProbeRefusesLiars(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		wrap wrap
		want string
	}{
		{"create-only ignored", drop("If-None-Match"), "told that they created it"},
		{"create-only not atomic", checkThenWrite(), "told that they created it"},
		{"ranges ignored", drop("Range"), "ranged reads do not work"},
		{"other bytes", rewrite(func(r *http.Request, b []byte) []byte {
			if !isList(r) {
				b[0] ^= 1
			}
			return b
		}), "reads back as something else"},
		{"other bytes in ranges", rewrite(func(r *http.Request, b []byte) []byte {
			if r.Header.Get("Range") != "" {
				b[0] ^= 1
			}
			return b
		}), "other bytes"},
		{"list without new objects", rewrite(func(r *http.Request, b []byte) []byte {
			if i, j := bytes.Index(b, []byte("<Contents>")), bytes.LastIndex(b, []byte("</Contents>")); isList(r) && i >= 0 {
				b = append(b[:i:i], b[j+len("</Contents>"):]...)
			}
			return b
		}), "listing shows"},
		{"list ignores start-after", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				q.Del("start-after")
				r.URL = &url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
				next.ServeHTTP(w, r)
			})
		}, ""}, // costs time, not truth: keys that were not asked for are left out
		{"delete does nothing", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodDelete {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				next.ServeHTTP(w, r)
			})
		}, "still be read"},
		{"put does nothing", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					io.Copy(io.Discard, r.Body)
					return
				}
				next.ServeHTTP(w, r)
			})
		}, "told that they created it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o, err := s3.New(t.Context(), configOf(testenv.S3Fake(t, tc.wrap)))
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				o.Close()
				return
			}
			if !errors.Is(err, s3.ErrRefused) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "use another store") {
				t.Errorf("got %v, want it refused with %q", err, tc.want)
			}
		})
	}
}

// A store that answers nobody's put with success is caught by reading back.
func TestProbeNoWinner(t *testing.T) {
	t.Parallel()
	_, err := s3.New(t.Context(), configOf(testenv.S3Fake(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				s3Error(w, http.StatusPreconditionFailed, "PreconditionFailed")
				return
			}
			next.ServeHTTP(w, r)
		})
	})))
	if !errors.Is(err, s3.ErrRefused) {
		t.Errorf("got %v, want %v", err, s3.ErrRefused)
	}
}

// The winner's answer is lost and its retry finds the object: no lie.
func TestProbeSurvivesLostAnswers(t *testing.T) {
	t.Parallel()
	o, err := s3.New(t.Context(), configOf(testenv.S3Fake(t, func(next http.Handler) http.Handler {
		var mu sync.Mutex
		lost := map[string]bool{}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			mu.Lock()
			lose := rec.Code < 300 && !lost[r.URL.Path]
			lost[r.URL.Path] = lost[r.URL.Path] || lose
			mu.Unlock()
			if lose {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		})
	})))
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
}

// A store that is away is not called a liar.
func TestProbeOfAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	_, err := s3.New(t.Context(), configOf(testenv.S3Fake(t, answer(func(w http.ResponseWriter, r *http.Request) { s3Error(w, 503, "SlowDown") }))))
	if !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, s3.ErrRefused) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
}

func TestProbeLeavesNothing(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, srv *testenv.S3Server) {
		o := open(t, configOf(srv))
		for range 3 {
			if err := o.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if keys := keysOf(t, o, "", ""); len(keys) != 0 {
			t.Errorf("the probe left %q", keys)
		}
	})
	// Even when it refuses the store, and when several probe at once.
	t.Run("after refusal", func(t *testing.T) {
		t.Parallel()
		c := configOf(testenv.S3Fake(t, drop("If-None-Match")))
		c.WithoutProbe = true
		o := open(t, c)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := o.Probe(t.Context()); !errors.Is(err, s3.ErrRefused) {
					t.Errorf("got %v, want %v", err, s3.ErrRefused)
				}
			})
		}
		wg.Wait()
		if keys := keysOf(t, o, "", ""); len(keys) != 0 {
			t.Errorf("the probe left %q", keys)
		}
	})
}
