package canary

import "math"

// errorTests are all tests on errors. Counts of both arms come in per closed
// stratum (compare); counts against absolute limits per tick (observe).
type errorTests struct {
	equal, margin, worst *oddsRatio

	// worse bets against "odds ratio ≤ 1", damped by blocks; sudden does so,
	// damped by shorter blocks, in which most of the candidate's requests fail;
	// alarm is undamped; beyond bets against "odds ratio ≤ margin".
	worse, sudden, alarm, beyond *mixture
	large                        *oddsRatio
	suddenLimit                  float64
	suddenSeen                   Totals // of the candidate in the short block
	// noWorse bets against "odds ratio ≥ MaxRatio".
	noWorse *mixture
	// block and all are what was compared in the block and in the whole canary;
	// see limitWorse.
	block, all exposure

	negligibleRate, sloRate, quietRate, killRate *rate
	// above bets against "rate ≤ negligible", below against "rate ≥ SLO", quiet
	// against "stable's rate ≥ twice what is negligible", and kill against "rate
	// ≤ kill" for the candidate and for both arms together.
	above, below, quiet *mixture
	kill                [2]*mixture

	marginLevels float64
	// apart divides the logarithm of the evidence of worse, see tempering.apart.
	apart float64
}

// exposure is what was compared: requests of both arms and stable's errors.
type exposure struct{ candidate, stable, errors float64 }

// reserve is the part of an e-process kept for regressions that start late.
const reserve = 0.3

// suddenPart is the weight of sudden in the evidence on errors, leastSudden the
// least odds ratio that it bets on, and crashing the part of the candidate's
// requests that fail in a block that counts.
const (
	suddenPart  = 0.1
	leastSudden = 15
	crashing    = 0.5
)

func newErrorTests(cfg Config) *errorTests {
	w := cfg.Weights.Errors
	limit := cfg.blockLimit(w*(1-suddenPart), cfg.CapBlocks)
	ratios := logSpaced(1.45*cfg.MarginRatio, 60, 12)
	ratioPrior := powerPrior(ratios, -0.7)
	large := logSpaced(leastSudden, 300, 5)
	better := logSpaced(0.15*cfg.MaxRatio, cfg.MaxRatio/1.25, 8)
	worst := min(0.9, max(300*cfg.NegligibleErrorRate, 0.5))
	rates := logSpaced(1.5*cfg.NegligibleErrorRate, worst, 8)
	low := logSpaced(0.02*cfg.SLOErrorRate, 0.7*cfg.SLOErrorRate, 6)
	quiet := logSpaced(0.04*cfg.NegligibleErrorRate, 1.4*cfg.NegligibleErrorRate, 6)
	e := &errorTests{
		equal:          newOddsRatio(1, ratios),
		margin:         newOddsRatio(cfg.MarginRatio, ratios),
		worst:          newOddsRatio(cfg.MaxRatio, better),
		large:          newOddsRatio(1, large),
		sudden:         newMixture(powerPrior(large, 0), reserve, cfg.Hazard, 0),
		suddenLimit:    cfg.blockLimit(w*suddenPart, cfg.SuddenCapBlocks),
		worse:          newMixture(ratioPrior, reserve, cfg.Hazard, limit),
		alarm:          newMixture(ratioPrior, 0, cfg.Hazard, noLimit),
		beyond:         newMixture(ratioPrior, reserve, cfg.Hazard, noLimit),
		noWorse:        newMixture(powerPrior(better, 0), 0, cfg.Hazard, noLimit),
		negligibleRate: newRate(cfg.NegligibleErrorRate, rates),
		above:          newMixture(powerPrior(rates, 0), reserve, cfg.Hazard, noLimit),
		sloRate:        newRate(cfg.SLOErrorRate, low),
		below:          newMixture(powerPrior(low, -0.5), 0, cfg.Hazard, noLimit),
		quietRate:      newRate(2*cfg.NegligibleErrorRate, quiet),
		quiet:          newMixture(powerPrior(quiet, -0.5), 0, cfg.Hazard, noLimit),
		apart:          1,
		marginLevels:   cfg.MarginAlpha / cfg.Alpha,
	}
	e.worse.limits = make([]float64, len(ratios))
	if cfg.KillErrorRate > 0 {
		lethal := logSpaced(cfg.KillErrorRate+float64(0.2*(1-cfg.KillErrorRate)), 0.99, 4)
		e.killRate = newRate(cfg.KillErrorRate, lethal)
		for i := range e.kill {
			e.kill[i] = newMixture(powerPrior(lethal, 0), reserve, cfg.Hazard, cfg.blockLimit(0.5, cfg.CapBlocks))
		}
	}
	return e
}

// blockLimit is what one block may add to the log of an e-process that has a
// part in the combined evidence, so that a number of blocks can just fail it.
func (c Config) blockLimit(part, blocks float64) float64 {
	return -ln(float64(c.Alpha*part)*(1-reserve)) / blocks
}

func (e *errorTests) compare(nc, ns, ec, es float64) {
	e.equal.addWith(e.margin, nc, ns, ec, es)
	e.large.add(nc, ns, ec, es)
	e.worst.add(nc, ns, ec, es)
	e.block.add(nc, ns, es)
	e.all.add(nc, ns, es)
}

func (x *exposure) add(nc, ns, es float64) {
	x.candidate += nc
	x.stable += ns
	x.errors += es
}

const (
	// usual is how many standard deviations above its mean a block's evidence
	// may be, and usualErrors how many errors may count in any case.
	usual       = 3
	usualErrors = 2
)

// limitWorse lets the block count for each alternative what is usual under it:
// a burst of fifty errors says nothing about a ratio of two, which would have
// brought three.
func (e *errorTests) limitWorse(phi float64) {
	nc, ns := e.block.candidate, e.block.stable
	if ns == 0 {
		return
	}
	stable := max(e.block.errors, float64(ns*(e.all.errors+1))/(e.all.stable+1))
	both := ln(nc + ns)
	for i, r := range e.equal.alts {
		miss := both - ln(float64(r*nc)+ns)
		hit := e.equal.gains[i] + miss
		errors := float64(r*stable) * nc / ns
		mean := float64(errors*hit) + float64(stable*miss)
		variance := float64(errors*float64(hit*hit)) + float64(stable*float64(miss*miss))
		e.worse.limits[i] = max(usualErrors*hit, mean/phi+float64(usual*math.Sqrt(variance/phi)))
	}
}

// observe ends a tick: it takes the tick's own totals and updates everything.
func (e *errorTests) observe(tick tickTotals, phi float64) {
	e.limitWorse(phi)
	e.worse.add(e.equal.scores, phi)
	e.alarm.add(e.equal.scores, phi)
	e.addSudden(tick.candidate, phi)
	e.beyond.add(e.margin.scores, phi)
	e.noWorse.add(e.worst.scores, phi)
	e.equal.clear()
	e.large.clear()
	e.margin.clear()
	e.worst.clear()

	n, errs := float64(tick.candidate.Requests), float64(tick.candidate.Errors)
	e.negligibleRate.set(n, errs)
	e.above.add(e.negligibleRate.scores, phi)
	e.sloRate.set(n, errs)
	e.below.add(e.sloRate.scores, phi)
	e.quietRate.set(float64(tick.stable.Requests), float64(tick.stable.Errors))
	e.quiet.add(e.quietRate.scores, phi)
	if e.killRate != nil {
		e.killRate.set(n, errs)
		e.kill[0].add(e.killRate.scores, phi)
		e.killRate.set(n+float64(tick.stable.Requests), errs+float64(tick.stable.Errors))
		e.kill[1].add(e.killRate.scores, phi)
	}
}

// addSudden lets the short block count for nothing while most of its requests
// succeed: a hiccup of one instance rarely fails that many for so long.
func (e *errorTests) addSudden(candidate Totals, phi float64) {
	e.suddenSeen.Requests += candidate.Requests
	e.suddenSeen.Errors += candidate.Errors
	e.sudden.limit = 0
	if float64(e.suddenSeen.Errors) >= float64(crashing*float64(e.suddenSeen.Requests)) {
		e.sudden.limit = e.suddenLimit
	}
	e.sudden.add(e.large.scores, phi)
}

func (e *errorTests) endSuddenBlock() {
	e.sudden.endBlock()
	e.suddenSeen = Totals{}
}

func (e *errorTests) endBlock() {
	// The alarm starts anew whenever nothing speaks for it, so that it goes off
	// as soon late as early (an e-detector).
	if e.alarm.value < 1 {
		e.alarm.restart(0)
	}
	e.block = exposure{}
	for _, m := range []*mixture{e.worse, e.alarm, e.beyond, e.noWorse, e.above, e.below, e.quiet, e.kill[0], e.kill[1]} {
		if m != nil {
			m.endBlock()
		}
	}
}

// level is the evidence that the candidate fails more: worse than stable at
// alpha, beyond the margin at margin_alpha, and above what is negligible. The
// least of e-processes is one under each of their nulls.
func (e *errorTests) level() float64 {
	worse := e.worse.value
	if worse > 1 {
		worse = exp(ln(worse) / e.apart)
	}
	worse = float64((1-suddenPart)*worse) + float64(suddenPart*e.sudden.value)
	return min(worse, float64(e.marginLevels*e.beyond.value), e.above.value)
}

// ratioLevel and quietLevel share beta between the two ways to pass.
func (c Config) ratioLevel() float64 { return 1 / (0.8 * c.Beta) }
func (c Config) quietLevel() float64 { return 1 / (0.2 * c.Beta) }

func (e *errorTests) killLevel() float64 {
	if e.killRate == nil {
		return 1
	}
	return float64(0.5*e.kill[0].value) + float64(0.5*e.kill[1].value)
}

// secondsTo is the time after which the mixture is expected to reach a level
// when its alternatives' logs grow by drift per second.
func (m *mixture) secondsTo(level float64, drift []float64) float64 {
	late := math.Inf(1)
	for i, d := range drift {
		if d > 0 {
			late = min(late, max(0, ln(level/max(m.now[i], 1e-290))/d))
		}
	}
	if late == 0 || math.IsInf(late, 1) {
		return late
	}
	early := 0.0
	for range 8 {
		middle := (early + late) / 2
		var value float64
		for i, d := range drift {
			value += float64(m.now[i] * exp(float64(middle*d)))
		}
		if value >= level {
			late = middle
		} else {
			early = middle
		}
	}
	return late
}

// chance is the median of the first time a level is reached, as a part of the
// time at which it is expected: luck reaches it earlier.
const chance = 0.75

// secondsToPass is the median time to a pass at these rates per second of
// requests if both arms fail at the given rate.
func (e *errorTests) secondsToPass(cfg Config, candidate, stable, errorRate, phi float64) float64 {
	o := newOddsRatio(e.worst.null, e.worst.alts)
	o.add(candidate, stable, float64(candidate*errorRate), float64(stable*errorRate))
	seconds := e.noWorse.secondsTo(cfg.ratioLevel(), scaled(o.scores, phi))
	if errorRate <= cfg.NegligibleErrorRate {
		seconds = min(seconds, max(
			e.below.secondsTo(1/cfg.Beta, e.sloRate.drift(candidate, errorRate, phi)),
			e.quiet.secondsTo(cfg.quietLevel(), e.quietRate.drift(stable, errorRate, phi))))
	}
	return float64(chance * seconds)
}

func scaled(scores []float64, phi float64) []float64 {
	for i := range scores {
		scores[i] /= phi
	}
	return scores
}
