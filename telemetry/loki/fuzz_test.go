package loki

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

// FuzzEntry feeds the reader of Loki's entries.
func FuzzEntry(f *testing.F) {
	for _, seed := range []string{
		`["1772366400050000000","line"]`, `["1","line",{"structuredMetadata":{"trace_id":"a"}}]`, `[]`, `[1,2,3]`, `["x","line"]`, `null`, `["1","l",{},4]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var e entry
		if json.Unmarshal(text, &e) == nil {
			_ = stream{Labels: map[string]string{"level": "info"}}.event(e)
		}
	})
}

// FuzzRecord feeds the reader of VictoriaLogs' lines.
func FuzzRecord(f *testing.F) {
	text, err := os.ReadFile("testdata/victorialogs-query.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		f.Add(line)
	}
	f.Add([]byte(`{"_time":"2026-03-01T12:00:00Z","severity":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if e, err := record(line); err == nil && e.Time.IsZero() && !bytes.Contains(line, []byte("0001-01-01")) {
			t.Errorf("a record without a time: %s", line)
		}
	})
}
