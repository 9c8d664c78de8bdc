//go:build unix

package main

import (
	"net"
	"testing"

	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/internal/needs"
)

func TestOrFreeGivesWayToWhoIsThere(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := orFree(ln.Addr().String()); got != "127.0.0.1:0" {
		t.Errorf("a taken address gives %s, want any free one", got)
	}
	free := needs.Addrs(t, 1)[0]
	if got := orFree(free); got != free {
		t.Errorf("a free address %s gives %s", free, got)
	}
}

func TestByDefaultKnowsWhatWasGiven(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		src  config.Sources
		want bool
	}{
		{config.Sources{}, true},
		{config.Sources{Environ: []string{"HEADGATE_PROXY_LISTEN=127.0.0.1:9000"}}, false},
		{config.Sources{Flags: map[string]string{"proxy-listen": "127.0.0.1:8081"}}, false},
	} {
		s, err := config.LoadSettings(tc.src)
		if err != nil {
			t.Fatal(err)
		}
		if got := byDefault(s, "proxy_listen"); got != tc.want {
			t.Errorf("%+v: by default %v, want %v", tc.src, got, tc.want)
		}
	}
}

// serve takes every setting of a server as a flag, which is what the table in
// docs/configuration.md says.
func TestServeTakesEverySetting(t *testing.T) {
	t.Parallel()
	f := newServeCommand(&app{}).Flags()
	for _, s := range config.DescribeSettings() {
		if got := f.Lookup(s.Flag) != nil; got == s.Client {
			t.Errorf("serve takes --%s: %v", s.Flag, got)
		}
	}
}
