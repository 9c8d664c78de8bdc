package canary

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"

	"github.com/headgate/headgate"
)

// maxLine bounds one line of a tick log in bytes.
const maxLine = 16 << 20

// WriteTick appends a tick to a tick log as one line of JSON.
func WriteTick(w io.Writer, t Tick) error {
	line, err := json.Marshal(t)
	if err != nil {
		return headgate.Invalidf("tick cannot be written; its costs and share must be finite numbers").Wrap(err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// ReadTicks yields the ticks of a log; empty lines are skipped. It stops at
// the first line that is not a tick, with an error that names the line.
func ReadTicks(r io.Reader) iter.Seq2[Tick, error] {
	return func(yield func(Tick, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		number := 0
		for lines.Scan() {
			number++
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue
			}
			var t Tick
			if err := json.Unmarshal(line, &t); err != nil {
				yield(Tick{}, headgate.Invalidf("tick log line %d is not a tick: %v", number, err).With("line", number))
				return
			}
			if !yield(t, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(Tick{}, headgate.Invalidf("tick log line %d is longer than %d bytes", number+1, maxLine).With("line", number+1))
		case err != nil:
			yield(Tick{}, err)
		}
	}
}

// Replay judges a tick log again and yields one decision per line. It stops
// at the first line that is not a tick, with an error that names the line.
func Replay(r io.Reader, cfg Config) iter.Seq2[Decision, error] {
	return func(yield func(Decision, error) bool) {
		j, err := New(cfg)
		if err != nil {
			yield(Decision{}, err)
			return
		}
		for t, err := range ReadTicks(r) {
			if err != nil {
				yield(Decision{}, err)
				return
			}
			if !yield(j.Observe(t), nil) {
				return
			}
		}
	}
}
