package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// Setting is the shared configuration that the processes of a lake find under
// the key lake.setting, as JSON; the names are Lake v2's. Names that are not
// listed here are passed over.
//
//	{"Name":"cluster","Storage":"oss","Bucket":"b","Endpoint":"oss-cn-hangzhou","AccessKey":"…","SecretKey":"env:OSS_SECRET"}
//
// AccessKey, SecretKey and AESPwd may be references: "env:NAME" for an
// environment variable, "file:/path" for a file, whose closing line break does
// not count.
type Setting struct {
	Name      string // of the lake; see Options.Name
	Storage   string // oss, s3, file, …
	Bucket    string
	Endpoint  string
	Region    string
	Prefix    string // of the object keys in the bucket
	BasePath  string // directory of Storage file
	AccessKey string
	SecretKey string
	AESPwd    string // Lake v2's encryption password
}

// ReadSetting reads lake.setting from the server of a URL. engine.ErrNotExist
// when the key is missing, engine.ErrInvalid when it is not such a JSON object,
// engine.ErrUnavailable when the server does not answer.
func ReadSetting(ctx context.Context, url string) (*Setting, error) {
	server, err := ParseURL(url)
	if err != nil {
		return nil, err
	}
	client := server.connect(Options{PoolSize: 1}, nil)
	defer client.Close()
	b, err := client.Get(ctx, settingKey).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, fmt.Errorf("read %s from %s: %w", settingKey, server, engine.ErrNotExist)
	case err != nil:
		return nil, unavailable(fmt.Sprintf("read %s from %s", settingKey, server), err)
	}
	var s Setting
	if err := json.Unmarshal(b, &s); err != nil {
		// encoding/json names offsets and fields, not values.
		return nil, fmt.Errorf("%w: %s on %s is not the JSON object that it should be: %w", engine.ErrInvalid, settingKey, server, err)
	}
	return &s, nil
}

// HasPlainSecrets tells that whoever can read the Redis has the bucket's keys
// too. Say so, and how to mend it: references in their place.
func (s *Setting) HasPlainSecrets() bool {
	return plain(s.SecretKey) || plain(s.AESPwd)
}

func plain(secret string) bool {
	return secret != "" && !strings.HasPrefix(secret, "env:") && !strings.HasPrefix(secret, "file:")
}

// Resolve is s with what the references stand for. An error names the field and
// the reference, never a value.
func (s *Setting) Resolve() (*Setting, error) {
	r := *s
	for name, field := range map[string]*string{"AccessKey": &r.AccessKey, "SecretKey": &r.SecretKey, "AESPwd": &r.AESPwd} {
		switch {
		case strings.HasPrefix(*field, "env:"):
			value, ok := os.LookupEnv((*field)[len("env:"):])
			if !ok {
				return nil, fmt.Errorf("%w: %s in %s is %q; set that variable", engine.ErrInvalid, name, settingKey, *field)
			}
			*field = value
		case strings.HasPrefix(*field, "file:"):
			b, err := os.ReadFile((*field)[len("file:"):])
			if err != nil {
				return nil, fmt.Errorf("%s in %s is %q: %w", name, settingKey, *field, err)
			}
			*field = strings.TrimRight(string(b), "\r\n")
		}
	}
	return &r, nil
}

// String names the lake and its bucket, without secrets.
func (s Setting) String() string {
	return fmt.Sprintf("lake %q on %s bucket %q at %q", s.Name, s.Storage, s.Bucket, s.Endpoint)
}

// GoString keeps secrets out of %#v.
func (s Setting) GoString() string { return s.String() }
