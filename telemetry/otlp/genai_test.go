package otlp_test

import (
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dictionary"
	"github.com/headgate/headgate/telemetry/genai"
)

// TestModelCallsBecomeFigures sends model calls as spans under old names and
// asks for what they used and cost.
func TestModelCallsBecomeFigures(t *testing.T) {
	t.Parallel()
	d, err := dictionary.Load("")
	if err != nil {
		t.Fatal(err)
	}
	prices, err := dictionary.LoadPrices([]byte("currency: USD\nper_tokens: 1000\nmodels: [{model: small-1, input: 0.5, output: 1.5}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	b := setup(t, func(b *bundle) {
		b.GenAI = genai.New(d, prices, "boot")
		b.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	const span = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"bidding"}}]},"scopeSpans":[{"spans":[
		{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b17%d","name":"chat","startTimeUnixNano":"1","endTimeUnixNano":"2","attributes":[
		{"key":"tenant_id","value":{"stringValue":"acme"}},{"key":"gen_ai.request.model","value":{"stringValue":"small-1"}},
		{"key":"gen_ai.usage.prompt_tokens","value":{"intValue":"200"}},{"key":"gen_ai.usage.completion_tokens","value":{"intValue":"40"}}]}]}]}]}`
	for i := range 3 {
		if resp, answer := b.post(t, "/v1/traces", "application/json", fmt.Appendf(nil, span, i)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	ahead.Store(int64(2 * time.Minute)) // until a metric of the service's own would have come
	b.stop(t)                           // writes what is counted
	for figure, want := range map[string]float64{"input_tokens": 600, "output_tokens": 120, "model_cost_total": 0.48} {
		q, err := d.Query(figure, dictionary.Scope{Tenant: "acme", Service: "bidding"})
		if err != nil {
			t.Fatal(err)
		}
		if v, ok, err := b.store.Number(t.Context(), q, b.Now()); err != nil || !ok || math.Abs(v-want) > 1e-9 {
			t.Errorf("%s = %v, %v, %v; want %v", figure, v, ok, err, want)
		}
	}
}
