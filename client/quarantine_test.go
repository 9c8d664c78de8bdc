package client_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/headgate/headgate/client"
)

func TestQuarantineReachesItsEndpoints(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var got string
	answer := `[{"digest":"sha256:aa","requested_by":"ann"}]`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + string(b)
		succeed(w, answer)
	})
	all, err := c.Quarantine(ctx, "things")
	if err != nil || got != "GET /api/v1/quarantine?service=things " || len(all) != 1 || all[0] != (client.Quarantined{Digest: "sha256:aa", RequestedBy: "ann"}) {
		t.Errorf("sent %s: %+v, %v", got, all, err)
	}
	answer = `{"released_by":"bob"}`
	q, err := c.ReleaseQuarantine(ctx, "", "sha256:aa", "why")
	if err != nil || got != `POST /api/v1/quarantine/sha256:aa/release {"reason":"why","service":""}` || q.ReleasedBy != "bob" {
		t.Errorf("sent %s: %+v, %v", got, q, err)
	}
}
