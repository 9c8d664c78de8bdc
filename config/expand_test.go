package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/config"
)

func TestExpand(t *testing.T) {
	t.Parallel()
	values := map[string]string{"version": "v1.0.0; rm -rf {{digest}}", "staging_url": "http://127.0.0.1:9002"}
	got, err := config.Expand([]string{"tool", "--v={{version}}", "{{ staging_url }}/x", "{plain}"}, values)
	want := []string{"tool", "--v=v1.0.0; rm -rf {{digest}}", "http://127.0.0.1:9002/x", "{plain}"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q: one argument stays one, and values are not expanded again", got, err, want)
	}
	if _, err := config.Expand([]string{"tool", "{{digest}}"}, values); err == nil || !strings.Contains(err.Error(), "{{digest}}") {
		t.Errorf("error %v does not name what is missing", err)
	}
}
