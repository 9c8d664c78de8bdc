package canary

// splitTest bets against "the candidate's odds of getting a request are within
// a margin of the configured ones". A mismatch means that requests are lost or
// counted on one side only, and then no comparison can be trusted.
type splitTest struct {
	more, less         *oddsRatio
	moreThan, lessThan *mixture
}

func newSplitTest(cfg Config) *splitTest {
	m := cfg.SplitMargin
	more := logSpaced(1.2*m, 50*m, 6)
	less := logSpaced(1/(50*m), 1/(1.2*m), 6)
	limit := cfg.blockLimit(0.5, cfg.CapBlocks)
	return &splitTest{
		more:     newOddsRatio(m, more),
		less:     newOddsRatio(1/m, less),
		moreThan: newMixture(powerPrior(more, 0), reserve, cfg.Hazard, limit),
		lessThan: newMixture(powerPrior(less, 0), reserve, cfg.Hazard, limit),
	}
}

func (s *splitTest) observe(tick tickTotals, share, phi float64) {
	if share <= 0 || share >= 1 {
		return
	}
	n, all := float64(tick.candidate.Requests), float64(tick.stable.Requests)
	s.more.clear()
	s.more.add(share, 1-share, n, all)
	s.moreThan.add(s.more.scores, phi)
	s.less.clear()
	s.less.add(share, 1-share, n, all)
	s.lessThan.add(s.less.scores, phi)
}

func (s *splitTest) endBlock() {
	s.moreThan.endBlock()
	s.lessThan.endBlock()
}

func (s *splitTest) level() float64 {
	return float64(0.5*s.moreThan.value) + float64(0.5*s.lessThan.value)
}
