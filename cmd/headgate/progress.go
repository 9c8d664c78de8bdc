package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/control"
)

// progress shows how a release goes. It is safe for concurrent use.
type progress interface {
	// say tells what happens here, beside the release's own trail.
	say(message string)
	// event shows one line of the release's trail.
	event(e client.Event)
	// state shows how the release stands.
	state(r client.Release)
	// close leaves the display as it is to stay.
	close()
}

// The ways of output.
const (
	outputText = "text"
	outputJSON = "json"
)

// newProgress returns the display of a release on out: JSON lines, stages that
// are redrawn where out is a terminal, and a line per event elsewhere.
func (a *app) newProgress(out io.Writer, asJSON bool) progress {
	switch f, ok := out.(*os.File); {
	case asJSON:
		return &jsonProgress{out: out, log: a.stderr}
	case ok && isTerminal(f) && a.getenv("TERM") != "dumb":
		return newLiveProgress(f, a.getenv("NO_COLOR") == "")
	}
	return &lineProgress{out: out}
}

// commandLog is where the output of commands goes beside a display: above it
// when both share the terminal.
func (a *app) commandLog(p progress) io.Writer {
	if l, ok := p.(*liveProgress); ok {
		if f, ok := a.stderr.(*os.File); ok && isTerminal(f) {
			return l
		}
	}
	return a.stderr
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// getenv looks a variable up in the app's environment.
func (a *app) getenv(name string) string {
	value := ""
	for _, line := range a.environ {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			value = v
		}
	}
	return value
}

// silent shows nothing.
type silent struct{}

func (silent) say(string)           {}
func (silent) event(client.Event)   {}
func (silent) state(client.Release) {}
func (silent) close()               {}

// jsonProgress writes one JSON object per event and last the release.
type jsonProgress struct {
	mu       sync.Mutex
	out, log io.Writer
	last     *client.Release
}

func (p *jsonProgress) say(message string) { fmt.Fprintln(p.log, message) }

func (p *jsonProgress) event(e client.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = writeJSON(p.out, e) // the reader is gone if this fails
}

func (p *jsonProgress) state(r client.Release) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = &r
}

func (p *jsonProgress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		_ = writeJSON(p.out, p.last) // the reader is gone if this fails
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// lineProgress writes one line per event.
type lineProgress struct {
	mu    sync.Mutex
	out   io.Writer
	known bool
}

func (p *lineProgress) say(message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s  %s\n", clock(time.Now()), message)
}

func (p *lineProgress) event(e client.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, eventLine(e))
}

func (p *lineProgress) state(r client.Release) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		fmt.Fprintf(p.out, "%s  release %s: %s %s\n", clock(time.Now()), r.ID, r.Service, r.Version)
	}
	p.known = true
}

func (p *lineProgress) close() {}

func clock(t time.Time) string { return t.Local().Format("15:04:05") }

// eventLine is an event as one line: time, stage, what, verdict, words.
func eventLine(e client.Event) string {
	parts := []string{clock(e.Time), fmt.Sprintf("%-9s", string(e.Stage)), strings.ReplaceAll(e.Kind, "_", " ")}
	if e.Verdict != "" {
		parts = append(parts, string(e.Verdict))
	}
	line := strings.Join(parts, "  ")
	if e.Message != "" {
		line += ": " + printable(e.Message)
	}
	if e.Reason != "" {
		line += " (" + printable(e.Reason) + ")"
	}
	if e.Actor != "" && e.Actor != "headgate" {
		line += " by " + printable(e.Actor)
	}
	return line
}

// seconds is a duration as people read it: 4.2s, 2m10s, 3h05m.
func seconds(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// percent is a share as people read it.
func percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1e4)/100, 'f', -1, 64) + " %"
}

// outcomeLine says how a release ended, and why.
func outcomeLine(r headgate.Release) string {
	line := fmt.Sprintf("%s %s %s: ", r.ID, r.Service, r.Version)
	switch r.Outcome {
	case headgate.Promoted:
		if slices.Contains(r.Reasons, control.ReasonTakenBack) {
			return line + "promoted, and taken back since; all traffic is on stable"
		}
		return line + "promoted; all traffic is on " + r.Version
	case headgate.Blocked:
		line += "blocked at " + string(r.StoppedAt) + "; it met no user"
	case headgate.RolledBack:
		line += "rolled back at " + string(r.StoppedAt) + "; all traffic is on stable"
	case headgate.Aborted:
		line += "aborted at " + string(r.StoppedAt)
	case headgate.Inconclusive:
		line += "inconclusive at " + string(r.StoppedAt) + "; it was not judged"
	default:
		line += "is at " + string(r.Stage)
	}
	if len(r.Reasons) > 0 {
		line += "\n  because: " + strings.Join(r.Reasons, ", ")
	}
	return line
}
