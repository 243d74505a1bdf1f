package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/jsonlake/lake/pkg/engine"
)

// Objects is a bucket, or a folder of one. It is safe for concurrent use.
type Objects struct {
	cfg    Config
	traits traits
	prefix string // "" or with a slash at its end
	client *awss3.Client
	own    *http.Client // nil when the caller gave an HTTP client
}

var _ engine.Objects = (*Objects)(nil)

const (
	readAttempts = 3 // of a body that breaks off: the SDK only repeats what fails before the body
	pageSize     = 1000
	mib          = 1 << 20
)

// Put creates the object, in one request whose body has a known length. The
// SDK repeats it on faults that may pass: ErrExists can then mean that its
// first attempt did arrive.
func (o *Objects) Put(ctx context.Context, key string, data []byte) error {
	if err := o.checkKey(key); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if int64(len(data)) > o.cfg.MaxObjectSize {
		return fmt.Errorf("put %s: %d bytes, at most %d: %w", key, len(data), o.cfg.MaxObjectSize, engine.ErrTooLarge)
	}
	opCtx, cancel := context.WithTimeout(ctx, o.cfg.PutTimeout+perMiB(int64(len(data))))
	defer cancel()
	in := &awss3.PutObjectInput{
		Bucket: aws.String(o.cfg.Bucket),
		Key:    aws.String(o.prefix + key),
		// A seekable body of stated length: anything else goes out chunked, which
		// several stores refuse, and could not be sent again.
		Body:          bytes.NewReader(data),
		ContentLength: aws.Int64(int64(len(data))),
		ContentType:   aws.String("application/octet-stream"),
	}
	_, err := o.client.PutObject(opCtx, in, o.traits.createOnly(in)...)
	if err == nil {
		return nil
	}
	if isExists(err) {
		return fmt.Errorf("put %s: %w", key, engine.ErrExists)
	}
	return o.fault(ctx, "put", key, err)
}

// Get reads a whole object. A body that breaks off is asked for again, and
// ends in an error if it does so each time: never in fewer bytes.
func (o *Objects) Get(ctx context.Context, key string) ([]byte, error) {
	return o.read(ctx, key, 0, -1)
}

// GetRange reads length bytes from off with one ranged request.
func (o *Objects) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	if off < 0 || length < 0 {
		return nil, fmt.Errorf("get %s: no such range: %d bytes from %d", key, length, off)
	}
	if length == 0 {
		return o.emptyRange(ctx, key, off)
	}
	return o.read(ctx, key, off, length)
}

// emptyRange answers a range of no bytes, which HTTP cannot ask for.
func (o *Objects) emptyRange(ctx context.Context, key string, off int64) ([]byte, error) {
	if err := o.checkKey(key); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	opCtx, cancel := context.WithTimeout(ctx, o.cfg.GetTimeout)
	defer cancel()
	out, err := o.client.HeadObject(opCtx, &awss3.HeadObjectInput{Bucket: aws.String(o.cfg.Bucket), Key: aws.String(o.prefix + key)})
	if code, _ := codeOf(err); code == "NotFound" {
		// An answer to HEAD has no body, so that this is all it can say.
		return nil, fmt.Errorf("get %s: %w", key, engine.ErrNotExist)
	}
	if err != nil {
		return nil, o.fault(ctx, "get", key, err)
	}
	if size := aws.ToInt64(out.ContentLength); off > size {
		return nil, tooShort(key, off, 0, size)
	}
	return []byte{}, nil
}

// read gets an object (length < 0) or a part of it.
func (o *Objects) read(ctx context.Context, key string, off, length int64) ([]byte, error) {
	if err := o.checkKey(key); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	var broken *bodyError
	for attempt := 1; ; attempt++ {
		data, err := o.readOnce(ctx, key, off, length)
		if err == nil {
			return data, nil
		}
		if attempt == readAttempts || ctx.Err() != nil || !errors.As(err, &broken) {
			return nil, err
		}
	}
}

// bodyError marks a body that ended early: the only read worth repeating here.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

func (o *Objects) readOnce(ctx context.Context, key string, off, length int64) ([]byte, error) {
	opCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(o.cfg.GetTimeout, func() { cancel(errTimeout) })
	defer deadline.Stop()

	in := &awss3.GetObjectInput{Bucket: aws.String(o.cfg.Bucket), Key: aws.String(o.prefix + key)}
	if length >= 0 {
		// However long the range: an object that could fill it is over the limit.
		last := off + min(length, o.cfg.MaxObjectSize+1) - 1
		if last < off {
			last = math.MaxInt64
		}
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, last))
	}
	out, err := o.client.GetObject(opCtx, in)
	if err != nil {
		if length >= 0 && isInvalidRange(err) {
			return nil, tooShort(key, off, length, -1)
		}
		return nil, o.fault(ctx, "get", key, withCause(opCtx, err))
	}
	defer out.Body.Close()

	if out.ContentLength == nil || *out.ContentLength < 0 {
		return nil, fmt.Errorf("get %s: the store does not tell the length of the object, so a cut could not be seen: is a proxy rewriting its answers?", key)
	}
	size := *out.ContentLength
	if size > o.cfg.MaxObjectSize {
		return nil, fmt.Errorf("get %s: %d bytes or more, at most %d: %w", key, size, o.cfg.MaxObjectSize, engine.ErrTooLarge)
	}
	if length >= 0 {
		if err := checkRange(key, off, length, size, aws.ToString(out.ContentRange)); err != nil {
			return nil, err
		}
	}
	if extra := perMiB(size); extra > 0 && deadline.Stop() {
		deadline.Reset(o.cfg.GetTimeout + extra)
	}
	data := make([]byte, size)
	if n, err := io.ReadFull(out.Body, data); err != nil {
		return nil, &bodyError{o.fault(ctx, "get", key, fmt.Errorf("body broke off after %d of %d bytes: %w", n, size, withCause(opCtx, err)))}
	}
	return data, nil
}

// checkRange holds the answer to a ranged request against what was asked.
func checkRange(key string, off, length, size int64, got string) error {
	if got == "" {
		return fmt.Errorf("get %s: the store answered a ranged request with a whole object: %w", key, ErrRefused)
	}
	var first, last, total int64
	if _, err := fmt.Sscanf(got, "bytes %d-%d/%d", &first, &last, &total); err != nil || first != off || last-first+1 != size || last >= total {
		return fmt.Errorf("get %s: asked for %d bytes from %d, the store answered with %d bytes as %q", key, length, off, size, got)
	}
	if size < length {
		return tooShort(key, off, length, total)
	}
	if size > length {
		return fmt.Errorf("get %s: asked for %d bytes from %d, the store answered with %d", key, length, off, size)
	}
	return nil
}

func tooShort(key string, off, length, size int64) error {
	if size < 0 {
		return fmt.Errorf("get %s: it ends before the %d bytes from %d: %w", key, length, off, engine.ErrDamaged)
	}
	return fmt.Errorf("get %s: it has %d bytes and ends before the %d bytes from %d: %w", key, size, length, off, engine.ErrDamaged)
}

// Delete removes an object; one that does not exist is not an error.
func (o *Objects) Delete(ctx context.Context, key string) error {
	if err := o.checkKey(key); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	opCtx, cancel := context.WithTimeout(ctx, o.cfg.GetTimeout)
	defer cancel()
	_, err := o.client.DeleteObject(opCtx, &awss3.DeleteObjectInput{Bucket: aws.String(o.cfg.Bucket), Key: aws.String(o.prefix + key)})
	if err == nil {
		return nil
	}
	if err = o.fault(ctx, "delete", key, err); errors.Is(err, engine.ErrNotExist) {
		return nil
	}
	return err
}

// List pages through ListObjectsV2. Keys outside the Config's Prefix are not
// seen. A store that lists out of order gets an error: a listing that is read
// at recovery must not miss a segment.
func (o *Objects) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		in := &awss3.ListObjectsV2Input{
			Bucket:  aws.String(o.cfg.Bucket),
			MaxKeys: aws.Int32(pageSize),
		}
		if full := o.prefix + prefix; full != "" {
			in.Prefix = aws.String(full)
		}
		if after != "" {
			in.StartAfter = aws.String(o.prefix + after)
		}
		last := after
		for {
			page, err := o.listPage(ctx, in)
			if err != nil {
				yield(engine.ObjectInfo{}, o.fault(ctx, "list", prefix+"*", err))
				return
			}
			for _, obj := range page.Contents {
				key, ok := strings.CutPrefix(aws.ToString(obj.Key), o.prefix)
				if !ok || !strings.HasPrefix(key, prefix) {
					yield(engine.ObjectInfo{}, fmt.Errorf("list %s*: the store listed %q, which was not asked for", prefix, aws.ToString(obj.Key)))
					return
				}
				if key <= after {
					continue // some stores start with the key itself
				}
				if key <= last {
					yield(engine.ObjectInfo{}, fmt.Errorf("list %s*: the store listed %q after %q, and a lake needs listings in byte order: %w", prefix, key, last, ErrRefused))
					return
				}
				last = key
				if !yield(engine.ObjectInfo{Key: key, Size: aws.ToInt64(obj.Size)}, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			next := aws.ToString(page.NextContinuationToken)
			if next == "" || next == aws.ToString(in.ContinuationToken) {
				yield(engine.ObjectInfo{}, fmt.Errorf("list %s*: the store says that there is more after %q but not how to go on", prefix, last))
				return
			}
			in.ContinuationToken, in.StartAfter = aws.String(next), nil
		}
	}
}

func (o *Objects) listPage(ctx context.Context, in *awss3.ListObjectsV2Input) (*awss3.ListObjectsV2Output, error) {
	opCtx, cancel := context.WithTimeout(ctx, o.cfg.GetTimeout)
	defer cancel()
	out, err := o.client.ListObjectsV2(opCtx, in)
	if err == nil && out.IsTruncated == nil && out.Name == nil {
		return nil, errors.New("the answer is no listing: is it an S3 server?")
	}
	return out, err
}

// checkKey refuses what no lake makes and stores or proxies would rewrite.
func (o *Objects) checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty")
	case len(o.prefix)+len(key) > 1024:
		return fmt.Errorf("key %.40q… has %d bytes with its prefix: S3 allows 1,024", key, len(o.prefix)+len(key))
	}
	return nil
}

// perMiB is the time that is added for a body: 1 s a full MiB.
func perMiB(n int64) time.Duration { return time.Duration(n/mib) * time.Second }
