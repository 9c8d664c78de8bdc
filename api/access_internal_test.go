package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// A bundle waits for those that others fetch, is refused when that takes too
// long, and comes when one of them has ended.
func TestBundlesWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &server{bundles: make(chan struct{}, maxBundles)}
		fetch := func(next func()) int {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/api/v1/releases/r/bundle", nil)
			s.limitBundles(humago.NewContext(&huma.Operation{}, r, w), func(huma.Context) { next() })
			return w.Code
		}
		for range maxBundles {
			go fetch(func() { time.Sleep(bundleWait + time.Second) })
		}
		synctest.Wait()
		if got := fetch(func() { t.Error("a bundle too many is made") }); got != http.StatusServiceUnavailable {
			t.Errorf("answered %d", got)
		}
		made := false
		if got := fetch(func() { made = true }); got != http.StatusOK || !made {
			t.Errorf("answered %d, made %v", got, made)
		}
	})
}
