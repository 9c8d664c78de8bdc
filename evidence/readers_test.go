package evidence_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

// TestReadersAgree tries documents in which a careless reader sees something
// else than a careful one. Both verifiers refuse each, for the same reason.
func TestReadersAgree(t *testing.T) {
	t.Parallel()
	const manifest, last = "manifest.dsse.json", "statements/0000000010.dsse.json"
	url := func(e []byte) []byte {
		return regexp.MustCompile(`"sig":"[^"]*"`).ReplaceAllFunc(e, func(s []byte) []byte {
			return []byte(strings.NewReplacer("+", "-", "/", "_").Replace(string(s)))
		})
	}
	for _, tt := range []struct {
		name string
		// lie is signed by the server itself.
		lie func(s *server, r headgate.Release)
		// carry is what somebody on the way does to the manifest's envelope.
		carry func(envelope []byte) []byte
		// pack is what somebody on the way does to the file.
		pack func([]byte) []byte
		want string // code and member
	}{
		{name: "a verdict twice", lie: restate(`"verdict":"pass"`, `"verdict":"fail","verdict":"pass"`), want: "MEMBER_INVALID " + last},
		{name: "a verdict in other letters, too", lie: restate(`"verdict":"pass"`, `"verdict":"fail","Verdict":"pass"`), want: "MEMBER_INVALID " + last},
		{name: "a claim and its contrary", lie: restate(`"gate":"cost"`, `"gate":"cost","declared":true,"declareD":false`), want: "MEMBER_INVALID " + last},
		{name: "a claim in other letters", lie: restate(`"gate":"cost"`, `"gate":"cost","Declared":true`), want: "MEMBER_INVALID " + last},
		{name: "another predicate type of this name", lie: func(s *server, r headgate.Release) {
			fail := s.decisions(r.ID)[3]
			fail.Verdict, fail.Checks[0].Verdict, fail.Checks[0].Value = headgate.Fail, headgate.Fail, 9.0
			fail.Values["task_cost_p95_ratio"], fail.FailedChecks = 9.0, []string{"TASK_COST_P95_RATIO_HIGH"}
			s.append(r, fail)
			s.state(r, "https://example.com/gate-decision/v1", s.decisions(r.ID)[3])
		}, want: "OUTCOME_UNSUPPORTED " + manifest},
		{name: "a field that nobody knows", lie: restate(`"release_id":"rel_a"`, `"release_id":"rel_a","x":1`)},
		{name: "names of one's own that differ in letters", lie: restate(`"values":{`, `"values":{"a":1,"A":2,`)},
		{name: "a rule set that says both", lie: func(s *server, r headgate.Release) {
			d := s.decisions(r.ID)[3]
			d.Rules.Digest = s.put(strings.Replace(rulesJSON, `"thresholds"`, `"Thresholds":{},"thresholds"`, 1))
			s.append(r, d)
		}, want: "MEMBER_INVALID blobs/sha256/"},
		{name: "two payloads", carry: func(e []byte) []byte {
			other := base64.StdEncoding.EncodeToString([]byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","subject":[],"predicate":{}}`))
			return bytes.Replace(e, []byte(`"payload":`), []byte(`"Payload":"`+other+`","payload":`), 1)
		}, want: "MEMBER_INVALID " + manifest},
		{name: "a second signature, which is bad", carry: func(e []byte) []byte {
			return bytes.Replace(e, []byte(`"signatures":[`), []byte(`"signatures":[{"keyid":"x","sig":"AAAA"},`), 1)
		}, want: "SIGNATURE_INVALID " + manifest},
		{name: "a base64 of another alphabet", carry: url, want: "MEMBER_INVALID " + manifest},
		{name: "an envelope with room to write in", carry: func(e []byte) []byte { return append(bytes.Clone(e), ' ') }, want: "MEMBER_INVALID " + manifest},
		{name: "an envelope in UTF-16", carry: func(e []byte) []byte { return []byte(strings.Join(strings.Split(string(e), ""), "\x00") + "\x00") }, want: "MEMBER_INVALID " + manifest},
		{name: "a program before the archive", pack: func(b []byte) []byte { return append([]byte("#!/bin/sh\n"), b...) }, want: ""},
		{name: "a word after the archive", pack: func(b []byte) []byte { return append(bytes.Clone(b), "hello"...) }, want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, b := recorded(t, tt.lie)
			if tt.carry != nil {
				members := unzip(t, b)
				for bytes.Equal(tt.carry(members[manifest]), members[manifest]) {
					s, b = recorded(t, tt.lie) // one signature in fifteen is the same in both alphabets
					members = unzip(t, b)
				}
				members[manifest] = tt.carry(members[manifest])
				b = rezip(t, members)
			}
			if tt.pack != nil {
				b = tt.pack(b)
			}
			v := verify(t, b, evidence.VerifyOptions{TrustedKeys: s.keys.Public()})
			out, status := verifyInPython(t, b, s.keys.Public()...)
			good := tt.want == "" && tt.pack == nil
			if v.OK() != good || (status == 0) != good {
				t.Errorf("findings %v; the Python verifier ends with %d:\n%s", v.Findings, status, out)
			}
			if tt.want != "" {
				wantFindings(t, v, []string{tt.want + ": "})
				if !strings.Contains(out, tt.want) {
					t.Errorf("the Python verifier does not say %s:\n%s", tt.want, out)
				}
			}
		})
	}
}

// recorded returns a bundle, and the server that made it, which may have lied.
func recorded(t *testing.T, lie func(*server, headgate.Release)) (*server, []byte) {
	t.Helper()
	s, r := newServer(t), release("rel_a")
	s.record(r, s.decisions(r.ID))
	if lie != nil {
		lie(s, r)
	}
	return s, s.bundle(r, nil)
}

// restate appends a further decision of the cost gate, edited as text.
func restate(from, to string) func(*server, headgate.Release) {
	return func(s *server, r headgate.Release) {
		raw, err := json.Marshal(s.decisions(r.ID)[3])
		if err != nil {
			s.t.Fatal(err)
		}
		at := strings.LastIndex(string(raw), from)
		if at < 0 {
			s.t.Fatalf("no %s in %s", from, raw)
		}
		s.state(r, evidence.TypeGateDecision, json.RawMessage(string(raw[:at])+to+string(raw[at+len(from):])))
	}
}

// state appends any predicate.
func (s *server) state(r headgate.Release, kind string, predicate any) {
	s.t.Helper()
	st, err := evidence.About(r, s.decisions(r.ID)[0])
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := json.Marshal(predicate)
	if err != nil {
		s.t.Fatal(err)
	}
	st.PredicateType, st.Predicate = kind, raw
	if _, err := s.log.Append(context.Background(), st); err != nil {
		s.t.Fatal(err)
	}
}

// TestReplacedKeySignsNothing: somebody kept the private key that a rotation
// destroyed on the server.
func TestReplacedKeySignsNothing(t *testing.T) {
	t.Parallel()
	old, now := t.TempDir(), t.TempDir()
	before, err := evidence.OpenKeyring(old, "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(now, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(now, before.Current().ID()+".key"), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := evidence.OpenKeyring(now, "ci.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Rotate(); err != nil {
		t.Fatal(err)
	}
	for _, forged := range []bool{false, true} {
		s, r := serverWith(t, before), release("rel_a")
		s.record(r, s.decisions(r.ID))
		late := evidence.NewLog(s.store, before)
		s.log, s.keys = evidence.NewLog(s.store, after), after
		s.append(r, s.decisions(r.ID)[0])
		if forged {
			st, err := evidence.About(r, s.decisions(r.ID)[1])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := late.Append(t.Context(), st); err != nil {
				t.Fatal(err)
			}
		}
		b := s.bundle(r, nil)
		v := verify(t, b, evidence.VerifyOptions{TrustedKeys: after.Public()})
		out, status := verifyInPython(t, b, after.Public()...)
		if v.OK() == forged || (status != 0) != forged {
			t.Errorf("forged %v: %v, Python %d:\n%s", forged, v.Findings, status, out)
		}
		const want = "KEY_UNTRUSTED statements/0000000011.dsse.json: "
		if forged {
			wantFindings(t, v, []string{want + "had replaced before"})
		}
		if strings.Contains(out, want) != forged {
			t.Errorf("the Python verifier says\n%s", out)
		}
	}
}
