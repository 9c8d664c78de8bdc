package headgate_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	"github.com/headgate/headgate"
)

func TestRollbackOrderIsTheContracts(t *testing.T) {
	t.Parallel()
	want := []headgate.Component{"model_config", "retrieval_params", "workflow_version", "release_version"}
	if got := headgate.RollbackOrder(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStagesFollowEachOther(t *testing.T) {
	t.Parallel()
	walked := []headgate.Stage{headgate.StageBuild}
	for {
		next, ok := walked[len(walked)-1].Next()
		if !ok {
			break
		}
		walked = append(walked, next)
	}
	if want := headgate.Stages(); !slices.Equal(walked, want) {
		t.Errorf("walked %v, want %v", walked, want)
	}
	if next, ok := headgate.Stage("deploy").Next(); ok {
		t.Errorf("an unknown stage is followed by %s", next)
	}
}

func TestGatesBeginWithGateD(t *testing.T) {
	t.Parallel()
	want := []headgate.Gate{"quality", "performance", "security", "cost", "rollout", "rollback", "ops"}
	if got := headgate.Gates(); !slices.Equal(got, want) || !slices.Equal(headgate.GateD(), want[:4]) {
		t.Errorf("gates %v, gate D %v", got, headgate.GateD())
	}
}

func TestListsAreCopies(t *testing.T) {
	t.Parallel()
	headgate.RollbackOrder()[0] = "x"
	headgate.Stages()[0] = "x"
	headgate.Gates()[0] = "x"
	headgate.ProjectSizes()[0] = "x"
	if headgate.RollbackOrder()[0] == "x" || headgate.Stages()[0] == "x" || headgate.Gates()[0] == "x" || headgate.ProjectSizes()[0] == "x" {
		t.Error("a caller can change the vocabulary")
	}
}

func TestReleaseIsDoneWhenItHasAnOutcome(t *testing.T) {
	t.Parallel()
	if (headgate.Release{}).Done() {
		t.Error("a release without outcome is done")
	}
	for _, o := range []headgate.Outcome{headgate.Promoted, headgate.Blocked, headgate.RolledBack, headgate.Aborted, headgate.Inconclusive} {
		if !(headgate.Release{Outcome: o}).Done() {
			t.Errorf("%s is not done", o)
		}
	}
}

func TestIDsAreDistinctAndReadable(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^rel_[a-z2-7]{20}$`)
	seen := map[string]bool{}
	for range 10_000 {
		id := headgate.NewID("rel")
		if !shape.MatchString(id) || seen[id] {
			t.Fatalf("id %q is repeated or misshapen", id)
		}
		seen[id] = true
	}
}

func TestBreachUsesTheContractsNames(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(headgate.Breach{Gate: headgate.GateQuality, MetricCode: "RAGAS_FAITHFULNESS_LOW", ConsecutiveFailures: 2})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"gate":"quality","metric_code":"RAGAS_FAITHFULNESS_LOW","consecutive_failures":2}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
