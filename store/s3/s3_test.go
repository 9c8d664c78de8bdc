package s3_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
	"github.com/headgate/headgate/evidence/blobtest"
	"github.com/headgate/headgate/store/s3"
)

var secret = aws.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "test-secret-0123456789"}

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": secret.AccessKeyID, "AWS_SECRET_ACCESS_KEY": secret.SecretAccessKey, "AWS_SESSION_TOKEN": "",
	} {
		if os.Getenv(realServer) == "" {
			if err := os.Setenv(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// realServer names a bucket of a real server, "https://host/bucket", for
// TestRealServer; the credentials are in AWS's variables.
const realServer = "HEADGATE_TEST_S3"

func open(t *testing.T, c s3.Config) *s3.Blobs {
	t.Helper()
	b, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Store {
		f := newBucket(t)
		c := f.config("headgate/prod")
		reopen := func(t *testing.T) evidence.Blobs { return open(t, c) }
		return blobtest.Store{Blobs: reopen(t), Reopen: reopen, Spoil: func(_ *testing.T, name string, content []byte) {
			f.set("headgate/prod/"+name, content)
		}}
	})
}

// TestRealServer runs the suite against whatever speaks S3, for example
// versitygw or MinIO.
func TestRealServer(t *testing.T) {
	address := os.Getenv(realServer)
	if address == "" {
		t.Skipf("%s is not set; for example start versitygw and set it to http://127.0.0.1:7070/bucket", realServer)
	}
	cut := strings.LastIndex(address, "/")
	blobtest.Run(t, func(t *testing.T) blobtest.Store {
		c := s3.Config{Endpoint: address[:cut], Bucket: address[cut+1:], Region: "us-east-1", Prefix: t.Name() + time.Now().UTC().Format("/150405.000000")}
		reopen := func(t *testing.T) evidence.Blobs { return open(t, c) }
		return blobtest.Store{Blobs: reopen(t), Reopen: reopen, Spoil: func(t *testing.T, name string, content []byte) {
			spoil(t, c, name, content)
		}}
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newBucket(t)
	for _, tt := range []struct {
		name   string
		change func(*s3.Config)
		want   string
	}{
		{"no such bucket", func(c *s3.Config) { c.Bucket = "another" }, `no bucket "another"`},
		{"wrong region", func(c *s3.Config) { c.Region = "eu-west-9" }, "refuses the credentials"},
		{"address with a path", func(c *s3.Config) { c.Endpoint += "/path" }, "not an address without a path"},
		{"impossible name", func(c *s3.Config) { c.Bucket = "A B" }, "open the evidence bucket"},
	} {
		c := f.config("")
		tt.change(&c)
		if _, err := s3.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret.SecretAccessKey) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestOpenNeedsCredentials(t *testing.T) {
	f := newBucket(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	file := t.TempDir() + "/credentials"
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	if _, err := s3.Open(t.Context(), f.config("")); err == nil || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("without any: %v", err)
	}
	lines := "[default]\naws_access_key_id = " + secret.AccessKeyID + "\naws_secret_access_key = " + secret.SecretAccessKey + "\n"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, f.config("")).Put(t.Context(), []byte("abc")); err != nil {
		t.Errorf("from a file: %v", err)
	}
}

// TestFailedUploads: whatever happens to an upload, either Put returned a
// digest and the blob is there, or it did not and nobody rests on it.
func TestFailedUploads(t *testing.T) {
	t.Parallel()
	busy := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			fail(w, r, status, code)
			return true
		}
	}
	var failures atomic.Int64
	for _, tt := range []struct {
		name     string
		spoil    func(http.ResponseWriter, *http.Request) bool
		wantCode string // "" for success
		stored   bool
	}{
		{"busy twice, then well", func(w http.ResponseWriter, r *http.Request) bool {
			return failures.Add(1) <= 2 && busy(http.StatusServiceUnavailable, "SlowDown")(w, r)
		}, "", true},
		{"always busy", busy(http.StatusServiceUnavailable, "SlowDown"), headgate.CodeUnavailable, false},
		{"full", busy(http.StatusInsufficientStorage, "XMinioStorageFull"), headgate.CodeStorageFull, false},
		{"not allowed", busy(http.StatusForbidden, "AccessDenied"), headgate.CodeUnavailable, false},
		{"connection cut in the body", func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				panic(http.ErrAbortHandler)
			}
			return false
		}, headgate.CodeUnavailable, false},
		{"a byte lost on the way", func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				r.Body = shortened{r.Body}
			}
			return false
		}, headgate.CodeUnavailable, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newBucket(t)
			b := open(t, f.config(""))
			f.intercept(tt.spoil)
			digest, err := b.Put(t.Context(), []byte("evidence"))
			if got := headgate.AsError(err).Code; (err == nil) != (tt.wantCode == "") || err != nil && got != tt.wantCode {
				t.Errorf("%s, %v; want %q", digest, err, tt.wantCode)
			}
			f.intercept(nil)
			n, found, cerr := b.Check(t.Context())
			if cerr != nil || len(found) != 0 || (n == 1) != tt.stored {
				t.Errorf("%d objects, damaged %v, %v", n, found, cerr)
			}
			if err == nil {
				if got, err := b.Get(t.Context(), digest); err != nil || string(got) != "evidence" {
					t.Errorf("acknowledged but %q, %v", got, err)
				}
			}
		})
	}
}

func TestDeadlineEndsAnUpload(t *testing.T) {
	t.Parallel()
	f := newBucket(t)
	b := open(t, f.config(""))
	f.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done() // a bucket that never answers
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if digest, err := b.Put(ctx, []byte("abc")); headgate.AsError(err).Code != headgate.CodeUnavailable {
		t.Errorf("%s, %v", digest, err)
	}
}

func TestBrokenDownloadIsReadAgain(t *testing.T) {
	t.Parallel()
	f := newBucket(t)
	b := open(t, f.config(""))
	content := []byte(strings.Repeat("evidence", 1<<12))
	digest, err := b.Put(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	var reads atomic.Int64
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || reads.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", "32768")
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		_, _ = w.Write(content[:1000])
		panic(http.ErrAbortHandler)
	})
	if got, err := b.Get(t.Context(), digest); err != nil || string(got) != string(content) || reads.Load() < 2 {
		t.Errorf("%d bytes after %d reads, %v", len(got), reads.Load(), err)
	}
}
