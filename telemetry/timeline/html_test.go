package timeline_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/timeline"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func page(t *testing.T, m memory, lang string) string {
	t.Helper()
	got, err := timeline.Build(t.Context(), m, telemetry.Query{RequestID: "req_1", TenantID: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := got.WriteHTML(&out, lang, ""); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// detailed is the failed request with what a service adds to its events.
func detailed() memory {
	m := failedRequest()
	for i := range m {
		m[i].Service, m[i].Version = "bidding", "v1.4.0"
	}
	m[5].Message = "database is locked"
	m[5].Attributes = map[string]string{"db.system": "sqlite", "db.operation": "INSERT"}
	return m
}

func TestHTMLIsAsBefore(t *testing.T) {
	t.Parallel()
	for _, lang := range []string{"en", "zh-CN"} {
		got, path := page(t, detailed(), lang), filepath.Join("testdata", "waterfall."+lang+".html")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s; run go test ./telemetry/timeline -update (-want +got):\n%s", path, diff)
		}
	}
}

func TestHTMLTellsTheStory(t *testing.T) {
	t.Parallel()
	got := page(t, detailed(), "en")
	for _, want := range []string{
		`<html lang="en">`, "prefers-color-scheme: dark", "Nothing for 6.000 s", `id="first-error"`, "DB_LOCKED", "database is locked", "job_1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(got, "First error"); n != 1 {
		t.Errorf("%d first errors", n)
	}
	for _, outside := range []string{"<script", "http://", "https://", "url(", " style="} {
		if strings.Contains(got, outside) {
			t.Errorf("the page is not self-contained: it has %q", outside)
		}
	}
}

func TestHTMLEscapesWhatServicesSend(t *testing.T) {
	t.Parallel()
	m := detailed()
	const hostile = `</td><script>alert(1)</script>"' onmouseover=x`
	for i := range m {
		e := &m[i]
		if e.RequestID == "req_1" {
			e.Name, e.Message, e.Service, e.ErrorCode, e.Attributes = hostile, hostile, hostile, hostile, map[string]string{hostile: hostile}
		}
	}
	got := page(t, m, "en")
	if strings.Contains(got, "<script") || strings.Contains(got, `"' onmouseover`) {
		t.Error("what a service sent becomes markup")
	}
	// Well-formed, so that nothing breaks out of its element.
	d := xml.NewDecoder(strings.NewReader(got))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHTMLOfNothing(t *testing.T) {
	t.Parallel()
	if got := page(t, nil, "zh-CN"); !strings.Contains(got, "没有找到") || strings.Contains(got, "<table") {
		t.Error(got)
	}
	if err := (timeline.Timeline{}).WriteHTML(io.Discard, "fr", ""); err == nil || !strings.Contains(err.Error(), "zh-CN") {
		t.Errorf("an unknown language: %v", err)
	}
}
