package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
)

// liveProgress redraws a release's stages at the foot of a terminal. What is
// written to it goes above.
type liveProgress struct {
	mu      sync.Mutex
	out     *os.File
	color   bool
	rel     *client.Release
	message string // the last event
	drawn   int    // lines on the screen
	partial []byte
	stop    chan struct{}
	stopped sync.WaitGroup
}

func newLiveProgress(out *os.File, color bool) *liveProgress {
	p := &liveProgress{out: out, color: color, stop: make(chan struct{})}
	p.stopped.Go(func() {
		ticker := time.NewTicker(time.Second) // clocks on the display go on
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				p.show(func() {})
			}
		}
	})
	return p
}

// show changes something and draws again.
func (p *liveProgress) show(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.draw("")
}

func (p *liveProgress) say(message string) { p.above(message) }

func (p *liveProgress) event(e client.Event) {
	p.show(func() { p.message = eventLine(e) })
}

func (p *liveProgress) state(r client.Release) {
	p.show(func() { p.rel = &r })
}

func (p *liveProgress) above(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(line + "\n")
}

// Write puts whole lines above the display.
func (p *liveProgress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = append(p.partial, b...)
	if n := bytes.LastIndexByte(p.partial, '\n'); n >= 0 {
		p.draw(string(p.partial[:n+1]))
		p.partial = p.partial[n+1:]
	}
	return len(b), nil
}

func (p *liveProgress) close() {
	close(p.stop)
	p.stopped.Wait()
	p.show(func() {})
}

// draw replaces the display in one write, so that it does not flicker.
func (p *liveProgress) draw(above string) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	b.WriteString(above)
	p.drawn = 0
	if p.rel != nil {
		width, height, err := term.GetSize(int(p.out.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			width, height = 80, 24
		}
		lines := liveLines(*p.rel, p.message, time.Now())
		lines = lines[:min(len(lines), max(height-1, 1))] // more could not be erased
		fit := lipgloss.NewStyle().Inline(true).MaxWidth(max(width-1, 20))
		for _, l := range lines {
			text := fit.Render(l.text)
			if p.color && l.color != 0 {
				text = fmt.Sprintf("\x1b[%dm%s\x1b[0m", l.color, text)
			}
			b.WriteString(text + "\n")
		}
		p.drawn = len(lines)
	}
	_, _ = p.out.WriteString(b.String()) // the terminal is gone if this fails
}

// Colours of lines.
const (
	plain  = 0
	bold   = 1
	faint  = 2
	red    = 31
	green  = 32
	yellow = 33
)

type liveLine struct {
	text  string
	color int
}

// liveLines is the display: the stages, the traffic, and what is going on.
func liveLines(r client.Release, message string, now time.Time) []liveLine {
	lines := []liveLine{{fmt.Sprintf("%s %s  release %s", r.Service, r.Version, r.ID), bold}}
	for _, stage := range headgate.Stages() {
		lines = append(lines, stageLine(r, stage, now))
	}
	if c := r.Canary; c != nil && c.Stable.Requests+c.Candidate.Requests > 0 {
		lines = append(lines, liveLine{fmt.Sprintf("  candidate %s requests, %s failed   stable %s, %s failed",
			thousands(c.Candidate.Requests), thousands(c.Candidate.Errors), thousands(c.Stable.Requests), thousands(c.Stable.Errors)), plain})
	}
	if c := r.Canary; c != nil && c.Evict != "" {
		lines = append(lines, liveLine{fmt.Sprintf("  nearly all of the candidate's errors are those of tenant %s", printable(c.Evict)), yellow})
	}
	if len(r.Tiers) > 1 {
		lines = append(lines, liveLine{tierLine(r.Tiers), plain})
	}
	for _, e := range r.Evicted {
		lines = append(lines, liveLine{fmt.Sprintf("  %s is off the candidate: %s of %s failed there, %s of %s on stable since", printable(e.Tenant),
			thousands(e.Candidate.Errors), thousands(e.Candidate.Requests), thousands(e.Stable.Errors), thousands(e.Stable.Requests)), yellow})
	}
	status := fmt.Sprintf("  %d signed statements", r.Evidence)
	if !r.Done() {
		where := "on"
		if r.ShareUnconfirmed != "" {
			where = "asked for"
		}
		status = fmt.Sprintf("  %s of traffic %s the candidate %s", percent(r.Share), where, status)
	}
	if left := timeLeft(r, now); left != "" {
		status += "   " + left
	}
	lines = append(lines, liveLine{status, plain})
	if r.ShareUnconfirmed != "" && !r.Done() {
		lines = append(lines, liveLine{"  NOT CONFIRMED: " + printable(r.ShareUnconfirmed), red})
	}
	if message != "" && !r.Done() {
		lines = append(lines, liveLine{"  " + message, faint})
	}
	return lines
}

// tierLine is how far a canary has widened.
func tierLine(tiers []client.Tier) string {
	marks := map[string]string{"passed": "✓", "running": "▸", "stopped": "✗"}
	words := make([]string, len(tiers))
	for i, t := range tiers {
		mark := marks[t.State]
		if mark == "" {
			mark = "·"
		}
		words[i] = fmt.Sprintf("%s %s %s", mark, t.Tier, percent(t.Share))
	}
	return "  tiers  " + strings.Join(words, "   ")
}

func stageLine(r client.Release, stage headgate.Stage, now time.Time) liveLine {
	run, begun := r.Run(stage)
	if !begun {
		return liveLine{fmt.Sprintf("  ·  %s", stage), faint}
	}
	if run.EndedAt.IsZero() {
		text := fmt.Sprintf("  ▸  %-9s %6s", stage, seconds(now.Sub(run.StartedAt)))
		return liveLine{strings.TrimRight(text+"  "+printable(doing(r)), " "), yellow}
	}
	mark, color := "✓", green
	if run.Verdict != headgate.Pass {
		mark, color = "✗", red
	}
	words := run.Summary
	if len(run.Reasons) > 0 {
		words = strings.Join(run.Reasons, ", ") + "  " + words
	}
	text := fmt.Sprintf("  %s  %-9s %6s", mark, stage, seconds(run.EndedAt.Sub(run.StartedAt)))
	return liveLine{strings.TrimRight(text+"  "+printable(words), " "), color}
}

// doing is what a release is at.
func doing(r client.Release) string {
	switch {
	case r.Phase == "rolling_back":
		return "rolling back"
	case r.Stage == headgate.StageCanary && r.Canary != nil:
		said := string(r.Canary.Verdict) + ": " + r.Canary.Reason
		if r.Note != "" {
			said = r.Note + "; " + said
		}
		return said
	}
	return r.Note
}

// timeLeft is how long it goes on: the judge's estimate where there is one.
func timeLeft(r client.Release, now time.Time) string {
	switch {
	case r.Done() || r.Phase == "rolling_back":
		return ""
	case r.Stage == headgate.StageCanary && r.Canary != nil && r.Canary.Remaining > 0:
		return "about " + seconds(time.Duration(r.Canary.Remaining*float64(time.Second))) + " left"
	case !r.Deadline.IsZero():
		return "at most " + seconds(r.Deadline.Sub(now)) + " left"
	}
	return ""
}

// thousands groups digits.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
