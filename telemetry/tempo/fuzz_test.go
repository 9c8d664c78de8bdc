package tempo

import (
	"os"
	"testing"
)

// FuzzJaegerAnswer feeds the reader what a server might answer.
func FuzzJaegerAnswer(f *testing.F) {
	text, err := os.ReadFile("testdata/jaeger-traces.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"data":[{"spans":[{"traceID":"","startTime":9223372036854775807,"duration":-1,"logs":[{}],"references":[{}]}]}]}`))
	f.Add([]byte(`{"data":null}`))
	j, err := NewJaeger("http://127.0.0.1", nil, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := j.read(body)
		if err != nil && events != nil {
			t.Error("an answer that cannot be read gives events")
		}
		for _, e := range events {
			if n := len(e.TraceID); n > 0 && n < 32 {
				t.Errorf("trace id %q", e.TraceID)
			}
		}
	})
}
