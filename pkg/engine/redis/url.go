package redis

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/jsonlake/lake/pkg/engine"
)

// Server is where a Redis is and how it is reached.
type Server struct {
	opts    redis.UniversalOptions
	display string // without credentials
}

// ParseURL understands
//
//	redis://[user:password@]host[:port][/db]                     one server
//	redis+cluster://[user:password@]host[:port],host[:port]…     Redis Cluster, any of its nodes
//	redis+sentinel://[user:password@]host[:port],…/master[/db]   what Sentinel says is the master
//	unix:///path/to.sock[?db=n]                                  a Unix socket
//
// with rediss in place of redis for TLS. Query parameters: addr (more hosts, may
// be repeated), db, sentinel_user, sentinel_password, tls_server_name,
// tls_skip_verify=true. Anything else is engine.ErrInvalid.
func ParseURL(raw string) (*Server, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the text, which may hold a password.
		return nil, fmt.Errorf("%w: the Redis URL cannot be parsed; it looks like redis://host:6379", engine.ErrInvalid)
	}
	bad := func(format string, args ...any) (*Server, error) {
		return nil, fmt.Errorf("%w: Redis URL %s: %s", engine.ErrInvalid, u.Redacted(), fmt.Sprintf(format, args...))
	}
	s := &Server{display: u.Scheme + "://" + u.Host + u.Path}
	o := &s.opts
	kind, port := "", "6379"
	switch base, k, _ := strings.Cut(u.Scheme, "+"); {
	case base == "rediss":
		o.TLSConfig, kind = &tls.Config{MinVersion: tls.VersionTLS12}, k
	case base == "redis":
		kind = k
	case u.Scheme == "unix":
		kind = "unix"
	default:
		return bad("the scheme is redis, rediss, redis+cluster, redis+sentinel (or rediss+…) or unix")
	}
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	hosts := strings.Split(u.Host, ",")
	db := strings.Trim(u.Path, "/")
	switch kind {
	case "":
	case "cluster":
		o.IsClusterMode = true
	case "sentinel":
		port = "26379"
		o.MasterName, db, _ = strings.Cut(db, "/")
		if o.MasterName == "" {
			return bad("it lacks the master's name: redis+sentinel://host:26379/mymaster")
		}
	case "unix":
		if u.Host != "" || u.Path == "" {
			return bad("a socket has a path: unix:///run/redis.sock")
		}
		hosts, db = []string{u.Path}, ""
	default:
		return bad("unknown kind %q of a Redis", kind)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("its query cannot be parsed")
	}
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "addr":
			if kind == "unix" || kind == "" {
				return bad("more than one address needs redis+cluster or redis+sentinel")
			}
			hosts = append(hosts, values...)
		case "db":
			db = value
		case "sentinel_user":
			o.SentinelUsername = value
		case "sentinel_password":
			o.SentinelPassword = value
		case "tls_server_name", "tls_skip_verify":
			if o.TLSConfig == nil {
				return bad("%s needs TLS: rediss", name)
			}
			if name == "tls_server_name" {
				o.TLSConfig.ServerName = value
			} else if o.TLSConfig.InsecureSkipVerify, err = strconv.ParseBool(value); err != nil {
				return bad("tls_skip_verify is true or false, not %q", value)
			}
		default:
			return bad("unknown parameter %q", name)
		}
	}
	if db != "" {
		if o.DB, err = strconv.Atoi(db); err != nil || o.DB < 0 {
			return bad("the database is a number, not %q", db)
		}
		if o.IsClusterMode && o.DB != 0 {
			return bad("a cluster has database 0 only")
		}
	}
	for i, h := range hosts {
		if kind == "unix" {
			break
		}
		if hosts[i], err = withPort(h, port); err != nil {
			return bad("%v", err)
		}
	}
	if kind == "" && len(hosts) != 1 {
		return bad("more than one address needs redis+cluster or redis+sentinel")
	}
	o.Addrs = slices.Compact(hosts)
	return s, nil
}

func withPort(host, port string) (string, error) {
	if host == "" {
		return "", fmt.Errorf("an address is empty")
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host, nil
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", fmt.Errorf("%q is not host:port", host)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

// String is the URL without credentials.
func (s *Server) String() string { return s.display }

// connect makes a client; connections are opened when they are needed. Commands
// are retried on network errors: every script is idempotent.
func (s *Server) connect(o Options, onConnect func(context.Context, *redis.Conn) error) redis.UniversalClient {
	u := s.opts
	u.OnConnect = onConnect
	u.ClientName = o.ClientName
	if u.ClientName == "" {
		u.ClientName = "lake"
	}
	u.Protocol = 3
	u.ContextTimeoutEnabled = true
	if u.ReadTimeout == 0 {
		u.ReadTimeout, u.WriteTimeout, u.MaxRetries = 3*time.Second, 3*time.Second, 2
	}
	u.DialTimeout = 2 * time.Second
	u.DialerRetries = 2
	u.ConnMaxIdleTime = 5 * time.Minute
	u.PoolSize = o.PoolSize
	u.PipelinePoolSize = -1 // nearly all is pipelined: one pool
	u.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(&u)
}
