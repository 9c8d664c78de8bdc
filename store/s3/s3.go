// Package s3 keeps evidence files in an S3-compatible bucket, as an
// [evidence.Blobs]. It never deletes or lists for anybody, and it never makes a
// bucket: how long evidence is kept, and who may read it, is the bucket's
// policy.
package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

// Config says where the bucket is. Credentials are not in it: they are read
// from AWS's standard environment variables (AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE).
type Config struct {
	// Endpoint is an http or https address without a path.
	Endpoint string
	Region   string
	Bucket   string
	// Prefix begins the name of every object, such as "headgate/prod"; empty
	// for none.
	Prefix string
	// Transport is nil for one with timeouts and this machine's certificate
	// authorities.
	Transport http.RoundTripper
}

// Blobs keeps evidence files in a bucket under the names that
// [evidence.BlobName] gives. It is safe for concurrent use, also by several
// processes.
type Blobs struct {
	core   minio.Core
	config Config
}

const (
	// callTimeout bounds one operation with its retries.
	callTimeout = time.Minute
	// tries is how often a request is sent while the bucket does not answer or
	// says that it is busy.
	tries = 4
	// maxObject bounds what is read into memory; nothing larger was stored.
	maxObject = 512 << 20
)

// Open returns the blobs in a bucket that exists and can be reached.
func Open(ctx context.Context, c Config) (*Blobs, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"the evidence bucket's endpoint is not an address without a path, such as https://s3.eu-central-1.amazonaws.com")
	}
	keys := credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}})
	if v, err := keys.GetWithContext(nil); err != nil || v.AccessKeyID == "" {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"there are no credentials for the evidence bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE").Wrap(err)
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds: keys, Secure: endpoint.Scheme == "https", Region: c.Region, Transport: c.Transport, MaxRetries: tries,
	})
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation, "the evidence bucket's settings cannot be used: %w", err)
	}
	b := &Blobs{core: *core, config: c}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	there, err := core.BucketExists(ctx, c.Bucket)
	if err != nil {
		return nil, b.failure("open the evidence bucket", err)
	}
	if !there {
		return nil, headgate.Errorf(headgate.CodeConfigInvalid, headgate.ClassValidation,
			"there is no bucket %q at %s; make it, or correct HEADGATE_EVIDENCE_BUCKET", c.Bucket, endpoint.Host)
	}
	return b, nil
}

func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
		DisableCompression:    true, // content comes back as it was stored
	}
}

// Put implements [evidence.Blobs]. The bucket is told the digest and refuses
// content that lost a byte on its way; an object appears whole or not at all.
func (b *Blobs) Put(ctx context.Context, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	digest := evidence.Digest(content)
	key, err := b.key(digest)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Most of what is stored twice is a rule set, which every decision names. What
	// the bucket gives no digest of, or another, is written again.
	checksum := base64.StdEncoding.EncodeToString(sum[:])
	if info, err := b.core.StatObject(ctx, b.config.Bucket, key, minio.StatObjectOptions{Checksum: true}); err == nil && info.ChecksumSHA256 == checksum {
		return digest, nil
	}
	_, err = b.core.Client.PutObject(ctx, b.config.Bucket, key, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{
		ContentType:      "application/octet-stream",
		DisableMultipart: true, // one request: nothing half done is ever left in the bucket
		UserMetadata:     map[string]string{"X-Amz-Checksum-Sha256": checksum},
	})
	if err != nil {
		return "", b.failure("store an evidence file", err)
	}
	return digest, nil
}

// Get implements [evidence.BlobReader].
func (b *Blobs) Get(ctx context.Context, digest string) ([]byte, error) {
	key, err := b.key(digest)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var content []byte
	for range tries {
		if content, err = b.read(ctx, key); !errors.Is(err, io.ErrUnexpectedEOF) {
			break // the client retries what failed before the first byte
		}
	}
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil, evidence.BlobMissing(digest)
	}
	if err != nil {
		return nil, b.failure("read an evidence file", err)
	}
	if err := evidence.CheckBlob(digest, content); err != nil {
		return nil, err
	}
	return content, nil
}

func (b *Blobs) read(ctx context.Context, key string) (content []byte, err error) {
	body, _, _, err := b.core.GetObject(ctx, b.config.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return io.ReadAll(io.LimitReader(body, maxObject))
}

// Check implements [evidence.Blobs]. Objects under the prefix that are no blobs
// are damage too.
func (b *Blobs) Check(ctx context.Context) (n int, found []evidence.Damage, err error) {
	folder := path.Join(b.config.Prefix, "sha256") + "/"
	for object := range b.core.ListObjectsIter(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: folder, Recursive: true}) {
		if object.Err != nil {
			return n, found, b.failure("list the evidence files", object.Err)
		}
		n++
		_, err := b.Get(ctx, "sha256:"+path.Base(object.Key))
		if headgate.AsError(err).Code == headgate.CodeUnavailable {
			return n, found, err
		}
		if err != nil {
			found = append(found, evidence.Damage{Where: "object " + object.Key, What: err.Error()})
		}
	}
	return n, found, ctx.Err()
}

func (b *Blobs) key(digest string) (string, error) {
	name, err := evidence.BlobName(digest)
	return path.Join(b.config.Prefix, name), err
}

// failure says what a person can do about an answer of the bucket.
func (b *Blobs) failure(what string, cause error) error {
	answer := minio.ToErrorResponse(cause)
	switch {
	case answer.Code == minio.NoSuchBucket:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"cannot %s: there is no bucket %q any more; make it again or correct HEADGATE_EVIDENCE_BUCKET", what, b.config.Bucket).Wrap(cause)
	case answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized:
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"cannot %s: bucket %q refuses the credentials (%s); they need s3:GetObject, s3:PutObject and s3:ListBucket", what, b.config.Bucket, answer.Code).Wrap(cause)
	case answer.StatusCode == http.StatusInsufficientStorage || strings.Contains(answer.Code, "Quota") || answer.Code == "XMinioStorageFull":
		return headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
			"cannot %s: bucket %q is full; free some space or raise its quota", what, b.config.Bucket).Wrap(cause)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"cannot %s: bucket %q does not answer as it should; check that %s is right and reachable (%w)", what, b.config.Bucket, b.config.Endpoint, cause)
}
