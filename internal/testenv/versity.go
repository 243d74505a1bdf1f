package testenv

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// VersityServer is versitygw over a directory: a real S3 server, which verifies
// signatures and checksums and keeps its promise on conditional puts.
type VersityServer struct {
	*Process
	S3Server
	Dir string // the bucket is the directory of its name in here
}

// S3Versity starts versitygw with an empty bucket. The program is what
// LAKE_VERSITYGW names, else bin/versitygw, else the one in PATH.
func S3Versity(tb testing.TB) *VersityServer {
	tb.Helper()
	path := tool(tb, "LAKE_VERSITYGW", "versitygw")
	if path == "" {
		missing(tb, "versitygw", "make bin/versitygw")
	}
	s := &VersityServer{S3Server: newS3Server(), Dir: tb.TempDir()}
	iam := tb.TempDir()
	retryPorts(tb, path, func() (*Process, error) {
		addr := fmt.Sprintf("127.0.0.1:%d", FreePort(tb))
		s.Endpoint = "http://" + addr
		s.Process = newProcess(tb, path, []string{
			"--access", s.AccessKey, "--secret", s.SecretKey, "--region", s.Region,
			"--port", addr, "--health", "/health", "--iam-dir", iam,
			"--keep-alive", // else every request pays for a connection
			"--quiet",
			"posix", s.Dir,
		}, s.answers)
		return s.Process, s.start()
	})
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.createBucket(ctx); err != nil {
		if strings.Contains(s.Output(), "xattr") {
			tb.Logf("%s must lie on a file system with extended attributes", filepath.Dir(s.Dir))
		}
		tb.Fatalf("create bucket %s: %v\n%s", s.Bucket, err, s.Output())
	}
	return s
}

func (s *VersityServer) answers() error {
	return Healthy(context.Background(), s.Endpoint+"/health")
}
