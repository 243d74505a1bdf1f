package testenv

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// S3Server says how to reach an S3 server and the empty bucket in it. Path style.
type S3Server struct {
	Endpoint  string // http://host:port
	Bucket    string
	Region    string
	AccessKey string
	SecretKey string
}

func newS3Server() S3Server {
	return S3Server{Bucket: "lake", Region: "us-east-1", AccessKey: "lakeaccess", SecretKey: "lakesecret0123456789"}
}

// Client returns a client of the server, signing with its keys. Checksums are
// sent only where the protocol demands them, as to every store but AWS's own.
func (s *S3Server) Client(opts ...func(*s3.Options)) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint:               &s.Endpoint,
		Region:                     s.Region,
		UsePathStyle:               true,
		Credentials:                credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		DisableLogOutputChecksumValidationSkipped: true,
	}, opts...)
}

func (s *S3Server) createBucket(ctx context.Context) error {
	_, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.Bucket})
	return err
}

// S3Fake serves a bucket from memory, inside the test's process. It knows
// conditional puts and ranges but checks neither signatures nor checksums.
//
// Each wrap is put around what came before it, so that a test may delay, count or
// break requests; it runs for every request but the creation of the bucket.
func S3Fake(tb testing.TB, wrap ...func(http.Handler) http.Handler) *S3Server {
	tb.Helper()
	s := newS3Server()
	backend := s3mem.New()
	if err := backend.CreateBucket(s.Bucket); err != nil {
		tb.Fatalf("create bucket: %v", err)
	}
	handler := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog()), gofakes3.WithTimeSkewLimit(0)).Server()
	for _, w := range wrap {
		handler = w(handler)
	}
	srv := httptest.NewServer(handler)
	// A client may hold a connection whose request a test has blocked: Close alone
	// would wait for it.
	tb.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	s.Endpoint = srv.URL
	return &s
}
