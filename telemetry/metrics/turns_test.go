package metrics

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
)

// TestQueriesTakeTurns: many who ask at once load no more than a few answers'
// worth into memory, and nobody waits for ever.
func TestQueriesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done, running := make(chan struct{}), make(chan struct{}, 100)
		h := handler(func(*http.Request) (string, error) { return "", nil }, map[string]answer{
			"query": func(*http.Request, string) (any, error) {
				running <- struct{}{}
				<-done
				return "answer", nil
			},
		})
		ask := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/query", nil))
			return w.Code
		}
		answers := make(chan int, maxAtOnce)
		for range maxAtOnce {
			go func() { answers <- ask() }()
		}
		synctest.Wait()
		if code := ask(); code != http.StatusServiceUnavailable || len(running) != maxAtOnce {
			t.Errorf("one more is answered %d, %d run", code, len(running))
		}
		close(done)
		for range maxAtOnce {
			if code := <-answers; code != http.StatusOK {
				t.Errorf("answered %d", code)
			}
		}
		if code := ask(); code != http.StatusOK {
			t.Errorf("afterwards: %d", code)
		}
	})
}
