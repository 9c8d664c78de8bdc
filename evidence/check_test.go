package evidence_test

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/evidence"
)

// TestCheckLogNamesDamage: whatever is done to the stored log afterwards, the
// check says where.
func TestCheckLogNamesDamage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage func(*memoryStore)
		want   string // "" for a sound log
	}{
		"sound": {damage: func(*memoryStore) {}},
		"a changed entry": {
			damage: func(m *memoryStore) {
				e := &m.entries[3]
				e.Envelope = bytes.Replace(bytes.Clone(e.Envelope), []byte(`"sig":"`), []byte(`"sig":"A`), 1)
			},
			want: "entry 3: it is not the entry that the tree was built of",
		},
		"a hash of the tree": {
			damage: func(m *memoryStore) { m.hashes[tlog.StoredHashIndex(1, 0)][5] ^= 1 },
			want:   "the tree above entry 1: a hash is not what its entries give",
		},
		"a missing entry": {
			damage: func(m *memoryStore) { m.entries[2].Index = 99 },
			want:   "entry 2: it is missing",
		},
		"a missing end": {
			damage: func(m *memoryStore) { m.entries = m.entries[:5] },
			want:   "the last ones are missing",
		},
		"filed under another release": {
			damage: func(m *memoryStore) { m.entries[4].ReleaseID = "rel_b" },
			want:   "entry 4: it is filed under another release",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := newServer(t), release("rel_a")
			for i := range 7 {
				s.append(r, evidence.AuditEvent{Event: headgate.Event{Time: start, Kind: "tick", ReleaseID: r.ID, Actor: "headgate", Data: map[string]any{"n": i}}})
			}
			signed, err := evidence.OpenCheckpoint(s.checkpoint(), s.keys.Public())
			if err != nil {
				t.Fatal(err)
			}
			tt.damage(s.store)
			got, found, err := evidence.CheckLog(t.Context(), s.store, s.keys.Public())
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				if len(found) > 0 || got.Size != signed.Size || got.Root != signed.Root {
					t.Errorf("size %d, root %v, found %v; signed %d, %v", got.Size, got.Root, found, signed.Size, signed.Root)
				}
				return
			}
			for _, d := range found {
				if strings.Contains(d.Where+": "+d.What, tt.want) {
					return
				}
			}
			t.Errorf("no %q among %v", tt.want, found)
		})
	}
}
