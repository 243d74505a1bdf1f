package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/jsonlake/lake/pkg/engine"
)

// ErrRefused is what Open and New answer, wrapped in a sentence, when the store
// was tried out and does not do what a lake stands on. Reads and listings
// answer it when a store turns out so later.
var ErrRefused = errors.New("store cannot hold a lake")

// errTimeout is the cause of a call that ran into this package's own deadline,
// not its caller's.
var errTimeout = errors.New("no answer in time")

const (
	codeConditionalConflict = "ConditionalRequestConflict" // 409: another conditional request on this key is under way
	codeOperationAborted    = "OperationAborted"           // 409: the same on some stores
	// 409 of versitygw, also to a put into a directory that it is just removing
	// because its last object was deleted. A lake has no key that is another's folder.
	codeIsDirectory = "ExistingObjectIsDirectory"
	codeOSSExists   = "FileAlreadyExists" // 409 of x-oss-forbid-overwrite
)

// fault says what a failed request means:
//
//	caller's context ended        its error
//	no such key                   engine.ErrNotExist
//	throttled, 5xx, network, own  engine.ErrUnavailable: may pass
//	deadline, a conflict that
//	outlived its retries
//	bucket, credentials, region,  a sentence with the next step: does not pass
//	clock, unsupported request    by itself
//
// The SDK's error with the request id stays wrapped.
func (o *Objects) fault(ctx context.Context, op, key string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s %s: %w", op, key, ctxErr)
	}
	code, status := codeOf(err)
	switch {
	case code == "NoSuchKey" && op != "list":
		return fmt.Errorf("%s %s: %w", op, key, engine.ErrNotExist)
	case code == "NoSuchBucket":
		return fmt.Errorf("%s %s: bucket %s does not exist at %s: create it or correct the URL: %w", op, key, o.cfg.Bucket, o.where(), err)
	case code == "InvalidAccessKeyId" || code == "SignatureDoesNotMatch" || code == "InvalidToken" || code == "ExpiredToken" || code == "TokenRefreshRequired":
		return fmt.Errorf("%s %s: %s does not accept the credentials (%s): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: %w", op, key, o.where(), code, err)
	case code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s %s: this machine's clock and that of %s differ too much: set the clock: %w", op, key, o.where(), err)
	case code == "PermanentRedirect" || code == "AuthorizationHeaderMalformed" || code == "IllegalLocationConstraintException" || status == http.StatusMovedPermanently:
		return fmt.Errorf("%s %s: bucket %s is in another region than the requests were signed for: set region= in its URL: %w", op, key, o.cfg.Bucket, err)
	case code == "NotImplemented" || status == http.StatusNotImplemented:
		return fmt.Errorf("%s %s: %s does not know this request: choose another profile= (%s) or another store: %w", op, key, o.where(), profileNames(), err)
	case status == http.StatusForbidden || code == "AccessDenied":
		return fmt.Errorf("%s %s: access to bucket %s is denied: grant s3:PutObject, s3:GetObject, s3:DeleteObject on its objects and s3:ListBucket on the bucket: %w", op, key, o.cfg.Bucket, err)
	case isCredentials(err) && isNetwork(err):
		return fmt.Errorf("%s %s: credentials for %s could not be fetched: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or check the role: %w: %w", op, key, o.where(), engine.ErrUnavailable, err)
	case isCredentials(err):
		return fmt.Errorf("%s %s: no credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: %w", op, key, o.where(), err)
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout,
		code == codeConditionalConflict, code == codeOperationAborted, code == codeIsDirectory, code == "SlowDown", code == "RequestTimeout",
		isNetwork(err), isOwnDeadline(err), isQuota(err):
		return fmt.Errorf("%s %s: %w: %w", op, key, engine.ErrUnavailable, err)
	case status == http.StatusNotFound:
		// Not the word of a store: an engine that took it for a missing object
		// would look for it elsewhere.
		return fmt.Errorf("%s %s: %s answered 404 without saying what is missing: is it an S3 server?: %w", op, key, o.where(), err)
	}
	return fmt.Errorf("%s %s: %w", op, key, err)
}

func (o *Objects) where() string {
	if o.cfg.Endpoint == "" {
		return "AWS"
	}
	return o.cfg.Endpoint
}

// codeOf finds the store's error code and the HTTP status, "" and 0 without.
func codeOf(err error) (code string, status int) {
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		status = resp.HTTPStatusCode()
	}
	return code, status
}

// isExists tells whether a create-only put was refused for the object's sake.
func isExists(err error) bool {
	code, status := codeOf(err)
	return status == http.StatusPreconditionFailed || code == "PreconditionFailed" || code == codeOSSExists
}

func isInvalidRange(err error) bool {
	code, status := codeOf(err)
	return status == http.StatusRequestedRangeNotSatisfiable || code == "InvalidRange"
}

func isNetwork(err error) bool {
	var netErr net.Error
	var urlErr *url.Error
	var sendErr *smithyhttp.RequestSendError
	return errors.As(err, &netErr) || errors.As(err, &urlErr) || errors.As(err, &sendErr) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

func isOwnDeadline(err error) bool {
	// The caller's context was asked first: what is left is ours.
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, errTimeout)
}

// isQuota: so many requests failed lately that the SDK does not retry.
func isQuota(err error) bool {
	var q ratelimit.QuotaExceededError
	return errors.As(err, &q)
}

// isCredentials goes by words: the SDK has no type for it.
func isCredentials(err error) bool {
	s := err.Error()
	return strings.Contains(s, "get identity:") || strings.Contains(s, "retrieve credentials") || strings.Contains(s, "static credentials are empty")
}

// withCause adds why a context was cancelled, when it was this package's doing.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
		return fmt.Errorf("%w: %w", errTimeout, err)
	}
	return err
}
