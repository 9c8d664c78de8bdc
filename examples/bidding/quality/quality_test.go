package quality

import (
	"math"
	"testing"

	"github.com/headgate/headgate/examples/bidding"
)

func TestJudgeContexts(t *testing.T) {
	t.Parallel()
	quote := func(texts ...string) (out []bidding.Citation) {
		for _, s := range texts {
			out = append(out, bidding.Citation{Quote: s})
		}
		return out
	}
	for _, tc := range []struct {
		name              string
		contexts          []bidding.Citation
		evidence          []string
		precision, recall float64
	}{
		{"first", quote("the price is 7", "x"), []string{"price is 7"}, 1, 1},
		{"second", quote("x", "the price is 7"), []string{"price is 7"}, .5, 1},
		{"first and third", quote("a", "x", "b"), []string{"a", "b"}, (1 + 2./3) / 2, 1},
		{"half found", quote("a"), []string{"a", "b"}, 1, .5},
		{"nothing retrieved", nil, []string{"a"}, 0, 0},
	} {
		p, r := judgeContexts(tc.contexts, tc.evidence)
		if math.Abs(p-tc.precision) > 1e-9 || math.Abs(r-tc.recall) > 1e-9 {
			t.Errorf("%s: precision %g, recall %g; want %g, %g", tc.name, p, r, tc.precision, tc.recall)
		}
	}
}

func TestTextAtStaysOnThePage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		span bidding.Span
		want string
	}{
		{bidding.Span{Start: 1, End: 3}, "标价"}, {bidding.Span{Start: 2, End: 99}, "价"}, {bidding.Span{Start: 50, End: 60}, ""}, {bidding.Span{Start: 2, End: 1}, ""},
	} {
		if got := textAt("投标价", tc.span); got != tc.want {
			t.Errorf("textAt(%v) = %q, want %q", tc.span, got, tc.want)
		}
	}
}
