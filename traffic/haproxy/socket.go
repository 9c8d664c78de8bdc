package haproxy

import (
	"context"
	"io"
	"net"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// ask sends one command to the Runtime socket and returns the answer.
func (r *Router) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", r.path(socketName))
	if err != nil {
		return "", unreachable(err)
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		return "", unreachable(err)
	}
	answer, err := io.ReadAll(io.LimitReader(c, 64<<20))
	if err != nil {
		return "", unreachable(err)
	}
	text := string(answer)
	for _, complaint := range []string{"Unknown command", "Permission denied", "Unknown map", "No such table", "No such server", "No such backend"} {
		if strings.Contains(text, complaint) {
			return "", misunderstood(text)
		}
	}
	return text, nil
}

func (r *Router) readMap(ctx context.Context, name string) (map[string]string, error) {
	answer, err := r.ask(ctx, "show map "+r.path(name))
	if err != nil {
		return nil, err
	}
	return mapEntries(answer), nil
}

// mapEntries parses "0x… key value" lines.
func mapEntries(answer string) map[string]string {
	entries := map[string]string{}
	for line := range strings.Lines(answer) {
		if fields := strings.Fields(line); len(fields) == 3 {
			entries[fields[1]] = fields[2]
		}
	}
	return entries
}

// tableEntries parses "0x…: key=… use=0 exp=123 gpc0=1" lines.
func tableEntries(answer string) []map[string]string {
	var entries []map[string]string
	for line := range strings.Lines(answer) {
		_, rest, ok := strings.Cut(line, ": ")
		if !ok || !strings.HasPrefix(line, "0x") {
			continue
		}
		entry := map[string]string{}
		for field := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(field, "=")
			if i := strings.IndexByte(key, '('); i >= 0 { // http_req_rate(10000)
				key = key[:i]
			}
			entry[key] = value
		}
		entries = append(entries, entry)
	}
	return entries
}

// serverStates parses "show servers state", whose columns HAProxy's management
// guide lists: 2 backend, 4 server, 5 address, 6 state, 19 port.
func serverStates(answer string) map[string]server {
	servers := map[string]server{}
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		if len(fields) < 19 || strings.HasPrefix(line, "#") {
			continue
		}
		servers[fields[1]+"/"+fields[3]] = server{address: net.JoinHostPort(fields[4], fields[18]), up: fields[5] == "2"}
	}
	return servers
}

func unreachable(cause error) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "HAProxy's Runtime socket does not answer; check that HAProxy runs with the generated configuration and that its socket may be opened").Wrap(cause)
}

func misunderstood(answer string) error {
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "HAProxy answered %.80q, which was not expected; check that it runs the generated configuration", answer)
}
