package s3_test

import (
	"bytes"
	"crypto/md5" //nolint:gosec // an ETag is one
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/headgate/headgate/store/s3"
)

const (
	bucketName = "evidence"
	region     = "eu-central-1"
)

// bucket answers for one bucket over TLS as S3 does: it checks each request's
// version 4 signature with Amazon's own signer, which shares no code with the
// client, and each upload against the sha256 that came with it.
type bucket struct {
	server *httptest.Server

	mu      sync.Mutex
	objects map[string][]byte
	first   func(http.ResponseWriter, *http.Request) bool
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	f := &bucket{objects: map[string][]byte{}}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = nil
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *bucket) config(prefix string) s3.Config {
	return s3.Config{Endpoint: f.server.URL, Region: region, Bucket: bucketName, Prefix: prefix, Transport: f.server.Client().Transport}
}

func (f *bucket) set(key string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[key] = content
}

// intercept lets fn answer first; it reports whether it did.
func (f *bucket) intercept(fn func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first = fn
}

func (f *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !signed(r) {
		fail(w, r, http.StatusForbidden, "SignatureDoesNotMatch")
		return
	}
	f.mu.Lock()
	first := f.first
	f.mu.Unlock()
	if first != nil && first(w, r) {
		return
	}
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case name != bucketName:
		fail(w, r, http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.Method == http.MethodGet:
		f.list(w, r.URL.Query().Get("prefix"))
	case key == "":
		w.WriteHeader(http.StatusOK)
	case r.Method == http.MethodPut:
		f.put(w, r, key)
	default:
		f.get(w, r, key)
	}
}

// signed signs what the request says that it signed, and compares.
func signed(r *http.Request) bool {
	given := r.Header.Get("Authorization")
	_, rest, ok := strings.Cut(given, "SignedHeaders=")
	names, _, _ := strings.Cut(rest, ",")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if !ok || err != nil || time.Since(at).Abs() > 15*time.Minute {
		return false
	}
	again := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: http.Header{}}
	again.URL.Host = r.Host
	for _, name := range strings.Split(names, ";") {
		if v := r.Header.Values(name); len(v) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = v
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := signer.SignHTTP(r.Context(), secret, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", region, at); err != nil {
		return false
	}
	squeeze := strings.NewReplacer(" ", "")
	return squeeze.Replace(again.Header.Get("Authorization")) == squeeze.Replace(given)
}

func (f *bucket) put(w http.ResponseWriter, r *http.Request, key string) {
	content, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(content)
	if want := r.Header.Get("X-Amz-Checksum-Sha256"); err != nil || want != base64.StdEncoding.EncodeToString(sum[:]) {
		fail(w, r, http.StatusBadRequest, "BadDigest")
		return
	}
	f.set(key, content)
	w.Header().Set("ETag", etag(content))
}

func (f *bucket) get(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.Lock()
	content, ok := f.objects[key]
	f.mu.Unlock()
	if !ok {
		fail(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	if r.Header.Get("X-Amz-Checksum-Mode") == "ENABLED" {
		sum := sha256.Sum256(content)
		w.Header().Set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(sum[:]))
	}
	w.Header().Set("ETag", etag(content))
	http.ServeContent(w, r, "", time.Now(), bytes.NewReader(content))
}

func (f *bucket) list(w http.ResponseWriter, prefix string) {
	type object struct {
		Key          string
		Size         int
		LastModified time.Time
	}
	var answer struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []object
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(f.objects)) {
		if strings.HasPrefix(key, prefix) {
			answer.Contents = append(answer.Contents, object{key, len(f.objects[key]), time.Now().UTC()})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(answer)
}

func etag(content []byte) string {
	sum := md5.Sum(content) //nolint:gosec // as S3 does
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func fail(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
}

// shortened is a body without its last byte.
type shortened struct{ io.ReadCloser }

func (s shortened) Read(p []byte) (int, error) {
	content, err := io.ReadAll(s.ReadCloser)
	if err != nil || len(content) == 0 {
		return 0, io.EOF
	}
	return copy(p, content[:len(content)-1]), nil
}

// spoil replaces an object of a real server.
func spoil(t *testing.T, c s3.Config, name string, content []byte) {
	t.Helper()
	host, secure := strings.CutPrefix(c.Endpoint, "https://")
	client, err := minio.New(strings.TrimPrefix(host, "http://"), &minio.Options{Creds: credentials.NewEnvAWS(), Secure: secure, Region: c.Region})
	if err == nil {
		_, err = client.PutObject(t.Context(), c.Bucket, c.Prefix+"/"+name, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
