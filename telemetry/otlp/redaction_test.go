package otlp_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/events"
)

func TestRedactionHitsCanBeQueried(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	clean := strings.Replace(strings.Replace(jsonLog, "password=hunter2222", "a name", 1), `"v2"`, `"v3"`, 1)
	for _, body := range []string{jsonLog, clean} {
		if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(body)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	if body := b.sink.logs[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().Str(); strings.Contains(body, "hunter") {
		t.Errorf("stored body is %q", body)
	}
	for version, want := range map[string]float64{"v2": 1, "v3": 0} {
		q := fmt.Sprintf(`sum(headgate_redaction_hits_total{service_name="bidding",service_version=%q,signal="logs"})`, version)
		if v, ok := b.number(t, q); !ok || v != want {
			t.Errorf("%s = %v, %v; want %v", q, v, ok, want)
		}
		q = strings.Replace(q, "hits", "searched", 1)
		if v, ok := b.number(t, q); !ok || v != 1 {
			t.Errorf("%s = %v, %v; want the one record", q, v, ok)
		}
	}
	if v, ok := b.number(t, `increase(headgate_redaction_hits_total{service_version="v2"}[1m])`); !ok || v < 0.9 {
		t.Errorf("increase = %v, %v; want the first hit to count", v, ok)
	}
}

// A server that is killed after an acknowledgement has lost no hit of it.
func TestRedactionHitsAreKeptBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var acknowledged atomic.Int64
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for range 25 {
				if resp, answer := b.post(t, "/v1/logs", "application/json", []byte(jsonLog)); resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", resp.Status, answer)
				}
				least := float64(acknowledged.Add(1))
				if v, _, err := b.store.Number(t.Context(), `headgate_redaction_hits_total`, time.Now().Add(time.Second)); err != nil || v < least {
					t.Errorf("%v hits are kept, %v; %v were acknowledged", v, err, least)
				}
			}
		})
	}
	senders.Wait()
}

func TestSecretsNeverReachTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := events.Open(dir, events.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(b *bundle) { b.Logs, b.Traces = store, store })
	secrets := []string{"s3cr3t-bearer-value", "hunter2222", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"}
	var records, attributes strings.Builder
	for i, s := range []string{"Authorization: Bearer " + secrets[0], "password=" + secrets[1], secrets[2], "jwt " + secrets[3]} {
		if i > 0 {
			records.WriteString(",")
			attributes.WriteString(",")
		}
		fmt.Fprintf(&records, `{"body":{"stringValue":%q},"attributes":[{"key":"request_id","value":{"stringValue":"req_1"}}]}`, s)
		fmt.Fprintf(&attributes, `{"key":"a%d","value":{"stringValue":%q}}`, i, s)
	}
	for path, body := range map[string]string{
		"/v1/logs": `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + records.String() + `]}]}]}`,
		"/v1/traces": `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"x","attributes":[` +
			attributes.String() + `,{"key":"request_id","value":{"stringValue":"req_1"}},{"key":"error_code","value":{"stringValue":"E"}}]}]}]}]}`,
	} {
		if resp, answer := b.post(t, path, "application/json", []byte(body)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	b.stop(t)
	found, err := store.Find(t.Context(), telemetry.Query{RequestID: "req_1"})
	if err != nil || len(found) != 5 {
		t.Fatalf("%d events, %v", len(found), err)
	}
	stored := fmt.Sprintf("%+v", found) // blocks are compressed, so the files alone prove nothing
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		stored += string(text)
	}
	for _, s := range secrets {
		if strings.Contains(stored, s) {
			t.Errorf("%s reached the disk", s)
		}
	}
}
