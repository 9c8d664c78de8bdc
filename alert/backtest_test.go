package alert_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/alert"
)

func TestAThresholdFiresAfterItHasHeldForItsTime(t *testing.T) {
	t.Parallel()
	const step = 30 * time.Second
	at := func(steps ...int) []time.Time {
		var out []time.Time
		for _, n := range steps {
			out = append(out, start.Add(time.Duration(n)*step))
		}
		return out
	}
	for _, tt := range []struct {
		name string
		held []time.Time
		hold time.Duration
		want int // steps; −1 for never
	}{
		{"never past the bound", nil, 0, -1},
		{"at once", at(7), 0, 7},
		{"not long enough", at(1, 2), time.Minute, -1},
		{"exactly long enough", at(1, 2, 3), time.Minute, 3},
		{"a gap begins anew", at(1, 2, 4, 5), time.Minute, -1},
		{"after a gap", at(1, 2, 4, 5, 6, 7), time.Minute, 6},
	} {
		got, ok := alert.FiredAt(tt.held, step, tt.hold)
		if ok != (tt.want >= 0) || ok && !got.Equal(at(tt.want)[0]) {
			t.Errorf("%s: %v %v", tt.name, got, ok)
		}
	}
}

func TestAlertBacktestGuessesNothing(t *testing.T) {
	t.Parallel()
	past := func(id, truth string, fired bool) alert.PastRelease {
		p := alert.PastRelease{ReleaseID: id, Outcome: headgate.Promoted, Truth: truth, From: start, To: start.Add(time.Hour)}
		if fired {
			p.Firing = []alert.Firing{{Alert: "ApiSlow", Severity: alert.P2, FiredAt: start}}
		}
		return p
	}
	gone, unmet := past("gone", "bad", true), past("unmet", "unobserved", false)
	gone.Gone = "no metrics left"
	unmet.From = time.Time{}
	got := alert.Backtest([]alert.PastRelease{
		past("a", "bad", true), past("b", "bad", false), past("c", "good", true), past("d", "good", false),
		past("e", "unobserved", true), past("f", "unobserved", false), gone, unmet,
	})
	var would []string
	for _, r := range got.Releases {
		would = append(would, r.Would)
	}
	if diff := cmp.Diff([]string{"alerted", "silent", "alerted", "silent", "alerted", "silent", "no_metrics", "never_met_users"}, would); diff != "" {
		t.Error(diff)
	}
	got.Releases = nil
	want := alert.ConfusionTable{
		AlertedBad: 1, SilentBad: 1, AlertedGood: 1, SilentGood: 1, AlertedUnobserved: 1, SilentUnobserved: 1, NoMetrics: 1, NeverMetUsers: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
