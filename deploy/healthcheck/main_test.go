package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			http.Error(w, "recovering", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(srv.Close)
	for _, tc := range []struct {
		args []string
		err  string // part of it, "" for none
	}{
		{[]string{srv.URL + "/readyz"}, ""},
		{[]string{srv.URL + "/other"}, "503 Service Unavailable recovering"},
		{[]string{"http://127.0.0.1:1/"}, "refused"},
		{[]string{"::"}, "parse"},
		{nil, "usage"},
		{[]string{"a", "b"}, "usage"},
	} {
		err := check(tc.args)
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("check(%q) = %v, want %q", tc.args, err, tc.err)
		}
	}
}
