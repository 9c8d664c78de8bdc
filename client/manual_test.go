package client_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/headgate/headgate/client"
)

func TestSteeringReachesItsEndpoints(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for want, call := range map[string]func(*client.Client) (client.Release, error){
		`POST /api/v1/releases/r/pause {"reason":"why"}`:               func(c *client.Client) (client.Release, error) { return c.Pause(ctx, "r", "why") },
		`POST /api/v1/releases/r/resume {"reason":"why"}`:              func(c *client.Client) (client.Release, error) { return c.Resume(ctx, "r", "why") },
		`POST /api/v1/releases/r/promote {"reason":"why"}`:             func(c *client.Client) (client.Release, error) { return c.Promote(ctx, "r", "why") },
		`POST /api/v1/releases/r/share {"reason":"why","share":0.125}`: func(c *client.Client) (client.Release, error) { return c.SetShare(ctx, "r", 0.125, "why") },
	} {
		var got string
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.URL.RequestURI() + " " + string(b)
			succeed(w, `{"share":0.125}`)
		})
		if rel, err := call(c); err != nil || got != want || rel.Share != 0.125 {
			t.Errorf("sent %s, want %s: %+v, %v", got, want, rel, err)
		}
	}
}
