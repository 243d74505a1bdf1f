package redis

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	type want struct {
		addrs        []string
		master       string
		cluster, tls bool
		db           int
		user, pass   string
	}
	for url, w := range map[string]want{
		"redis://localhost":                             {addrs: []string{"localhost:6379"}},
		"redis://localhost:7000/3":                      {addrs: []string{"localhost:7000"}, db: 3},
		"redis://u:p%40@h:1?db=2":                       {addrs: []string{"h:1"}, db: 2, user: "u", pass: "p@"},
		"redis://:p@[::1]:6380":                         {addrs: []string{"[::1]:6380"}, pass: "p"},
		"redis://[::1]":                                 {addrs: []string{"[::1]:6379"}},
		"rediss://h":                                    {addrs: []string{"h:6379"}, tls: true},
		"rediss://h?tls_skip_verify=true":               {addrs: []string{"h:6379"}, tls: true},
		"redis+cluster://a:1,b,c:3":                     {addrs: []string{"a:1", "b:6379", "c:3"}, cluster: true},
		"redis+cluster://a:1?addr=b:2&addr=c:3":         {addrs: []string{"a:1", "b:2", "c:3"}, cluster: true},
		"rediss+sentinel://u:p@a,b:2/mymaster/4":        {addrs: []string{"a:26379", "b:2"}, master: "mymaster", tls: true, db: 4, user: "u", pass: "p"},
		"redis+sentinel://a/m?sentinel_password=x&db=1": {addrs: []string{"a:26379"}, master: "m", db: 1},
		"unix:///run/redis.sock?db=1":                   {addrs: []string{"/run/redis.sock"}, db: 1},
	} {
		s, err := ParseURL(url)
		if err != nil {
			t.Errorf("%s: got %v", url, err)
			continue
		}
		o := s.opts
		got := want{o.Addrs, o.MasterName, o.IsClusterMode, o.TLSConfig != nil, o.DB, o.Username, o.Password}
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s: got %+v, want %+v", url, got, w)
		}
		if o.Password != "" && strings.Contains(s.String(), o.Password) {
			t.Errorf("%s: %s shows the password", url, s)
		}
	}
	for _, url := range []string{
		"", "localhost", "localhost:6379", "http://h", "redis://", "redis://a,b", "redis+ring://h", "redis://h/x", "redis://h/-1", "redis://h?nope=1",
		"redis+sentinel://h", "redis+cluster://h/1", "redis://h?addr=i", "redis://h?tls_server_name=x", "rediss://h?tls_skip_verify=maybe", "unix://", "unix://h/p",
		"redis+cluster://a:1:2", "redis+cluster://a,,b", "redis://h?db=%zz", "redis://user:secret@h:port",
	} {
		s, err := ParseURL(url)
		if !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%s: got %v, %v, want %v", url, s, err, engine.ErrInvalid)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v shows the password", url, err)
		}
	}
}
