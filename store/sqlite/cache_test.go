package sqlite

import "testing"

// What was asked before a write and answered after it is not kept: a revoked
// credential never comes back.
func TestCacheForgetsWhatAWriteOvertook(t *testing.T) {
	t.Parallel()
	var c cache[string]
	answer := func(v string) func() (string, bool, error) {
		return func() (string, bool, error) { return v, v != "", nil }
	}
	if v, ok, err := c.get("a", answer("old")); v != "old" || !ok || err != nil {
		t.Fatal(v, ok, err)
	}
	if v, _, _ := c.get("a", answer("asked again")); v != "old" {
		t.Errorf("got %q, want what is kept", v)
	}
	c.forget()
	if v, ok, _ := c.get("a", func() (string, bool, error) {
		c.forget() // a write while the database answers
		return "old", true, nil
	}); v != "old" || !ok {
		t.Errorf("got %q, %v", v, ok)
	}
	if v, ok, _ := c.get("a", answer("")); ok {
		t.Errorf("got %q from before the write", v)
	}
	if v, ok, _ := c.get("a", answer("new")); v != "new" || !ok {
		t.Errorf("an absence was kept: %q, %v", v, ok)
	}
}
