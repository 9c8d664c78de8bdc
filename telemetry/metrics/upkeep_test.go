package metrics_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
	"github.com/headgate/headgate/telemetry/metrics"
)

// sample is a float at a time in milliseconds.
type sample struct {
	chunks.Sample // what floats do not have
	at            int64
	value         float64
}

func (s sample) T() int64                 { return s.at }
func (s sample) ST() int64                { return 0 }
func (s sample) F() float64               { return s.value }
func (s sample) Type() chunkenc.ValueType { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample      { return s }

// block writes a block of 100 series of one sample a minute over two hours.
func block(t *testing.T, dir string, from time.Time) string {
	t.Helper()
	var all []storage.Series
	for i := range 100 {
		var points []chunks.Sample
		for m := range 120 {
			points = append(points, sample{at: from.Add(time.Duration(m) * time.Minute).UnixMilli(), value: float64(i * m)})
		}
		all = append(all, storage.NewListSeries(labels.FromStrings(model.MetricNameLabel, "x", "i", strings.Repeat("i", i+1)), points))
	}
	path, err := tsdb.CreateBlock(all, dir, (24 * time.Hour).Milliseconds(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// damage overwrites eight bytes in the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(text[len(text)/2:], "damaged!")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stored makes a closed store with points in its log and a block.
func stored(t *testing.T) (dir, blockDir string) {
	t.Helper()
	dir = t.TempDir()
	blockDir = block(t, dir, time.Now().Add(-6*time.Hour).Truncate(2*time.Hour))
	s, err := metrics.Open(dir, metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 200 {
		b := export("v1", now.Add(time.Duration(i-200)*time.Second))
		for k := range 20 {
			b.counter("y", float64(i), map[string]any{"k": k})
		}
		mustAppend(t, s, "", b)
	}
	if _, err := metrics.Verify(t.Context(), dir, true); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("an open store was verified: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, blockDir
}

func verify(t *testing.T, dir string, repair bool) []telemetry.Damage {
	t.Helper()
	found, err := metrics.Verify(t.Context(), dir, repair)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestVerifyFindsAndRepairsDamage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file       string
		what       string
		blockStays bool
	}{
		"chunks": {file: "chunks/000001", what: "cannot be read"},
		"index":  {file: "index", what: ""},
		"meta":   {file: "meta.json", what: "cannot be opened"},
		"log":    {file: "wal", what: "write-ahead log is damaged", blockStays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, blockDir := stored(t)
			if found := verify(t, dir, true); len(found) != 0 {
				t.Fatalf("an intact store: %+v", found)
			}
			if tt.file == "wal" {
				damage(t, filepath.Join(dir, "wal", "00000000"))
			} else {
				damage(t, filepath.Join(blockDir, tt.file))
			}
			if found := verify(t, dir, false); len(found) != 1 || found[0].Repair != "" || !strings.Contains(found[0].What, tt.what) {
				t.Fatalf("found %+v", found)
			}
			if found := verify(t, dir, true); len(found) != 1 || found[0].Repair == "" {
				t.Fatalf("found %+v", found)
			}
			if found := verify(t, dir, false); len(found) != 0 {
				t.Errorf("after the repair: %+v", found)
			}
			s := open(t, dir, metrics.Options{})
			old, _, err := s.Number(t.Context(), `count(count_over_time(x[12h]))`, time.Now())
			if err != nil || (old == 100) != tt.blockStays {
				t.Errorf("%v series of the block, %v", old, err)
			}
			if n, _, err := s.Number(t.Context(), `count(count_over_time(y_total[12h]))`, time.Now()); err != nil || n != 20 {
				t.Errorf("%v series of the log, %v; want what was before the damage", n, err)
			}
		})
	}
	if _, err := metrics.Verify(t.Context(), t.TempDir(), false); !errors.Is(err, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "")) {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestRetentionByTimeAndSize(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		options func(total int64) metrics.Options
		blocks  int
	}{
		"time":        {func(int64) metrics.Options { return metrics.Options{Retention: 36 * time.Hour} }, 2},
		"size":        {func(total int64) metrics.Options { return metrics.Options{MaxBytes: total * 6 / 10} }, 2},
		"room enough": {func(total int64) metrics.Options { return metrics.Options{MaxBytes: 2 * total} }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			now := time.Now().Truncate(2 * time.Hour)
			for day := range 4 {
				block(t, dir, now.Add(-time.Duration(day)*24*time.Hour-4*time.Hour))
			}
			var total int64
			err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				info, err := e.Info()
				total += info.Size()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			open(t, dir, tt.options(total))
			left, err := filepath.Glob(filepath.Join(dir, "*", "meta.json"))
			if err != nil || len(left) != tt.blocks {
				t.Errorf("%d blocks are left, %v; want %d", len(left), err, tt.blocks)
			}
		})
	}
}

// TestInterruptedRepairLosesNothing: the process died, or the disk was full,
// while the TSDB wrote a damaged segment of its log again.
func TestInterruptedRepairLosesNothing(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	s, err := metrics.Open(dir, metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "", export("v1", now).counter("x", 4, nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(dir, "wal", "00000000")
	if err := os.Rename(segment, segment+".repair"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segment, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, metrics.Options{})
	if v, ok, err := s.Number(t.Context(), "x_total", now); err != nil || !ok || v != 4 {
		t.Errorf("what was acknowledged is %v, %v, %v", v, ok, err)
	}
}
