package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// damagedPrefix is what a folder is renamed to when it is taken out; the TSDB
// does not read it.
const damagedPrefix = "damaged-"

// blockName is a ULID, which the TSDB names its blocks by.
var blockName = regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{26}$`)

// Verify reads every sample of the store in dir and returns what is damaged.
// With repair, damaged blocks are set aside under the prefix damaged-, and the
// write-ahead log is cut before its damage. No process may have the store
// open; Verify takes its lock file.
func Verify(ctx context.Context, dir string, repair bool) (found []telemetry.Damage, err error) {
	if _, err := os.Stat(filepath.Join(dir, "wal")); err != nil {
		return nil, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "%s holds no metric store", dir)
	}
	log := slog.New(slog.DiscardHandler)
	lock, err := tsdbutil.NewDirLocker(dir, "tsdb", log, nil)
	if err != nil {
		return nil, fmt.Errorf("lock metric store: %w", err)
	}
	if err := lock.Lock(); err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"another process has the metric store in %s open; stop it first", dir).Wrap(err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()

	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list metric store: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !blockName.MatchString(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		samples, problem := checkBlock(ctx, log, path)
		if err := ctx.Err(); err != nil {
			return found, err
		}
		if problem == nil {
			continue
		}
		damage := telemetry.Damage{Store: "metrics", File: path, Rows: samples, What: problem.Error()}
		if repair {
			if damage.Repair, err = setAside(path); err != nil {
				return append(found, damage), err
			}
		}
		found = append(found, damage)
	}
	more, err := verifyLog(ctx, log, filepath.Join(dir, "wal"), repair)
	return append(found, more...), err
}

func setAside(path string) (done string, err error) {
	to := filepath.Join(filepath.Dir(path), damagedPrefix+filepath.Base(path))
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("set aside damaged metrics: %w", err)
	}
	return "set aside as " + filepath.Base(to) + "; its samples are lost to queries", nil
}

// checkBlock reads every sample of a block. samples is how many the block says
// that it has.
func checkBlock(ctx context.Context, log *slog.Logger, path string) (samples int64, err error) {
	// Damage within an index can make its reader fail in other ways than by an
	// error.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the index is damaged: %v", p)
		}
	}()
	b, err := tsdb.OpenBlock(log, path, chunkenc.NewPool(), nil)
	if err != nil {
		return 0, fmt.Errorf("cannot be opened: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	meta := b.Meta()
	samples = int64(meta.Stats.NumSamples)
	ir, err := b.Index()
	if err != nil {
		return samples, err
	}
	defer func() { err = errors.Join(err, ir.Close()) }()
	cr, err := b.Chunks()
	if err != nil {
		return samples, err
	}
	defer func() { err = errors.Join(err, cr.Close()) }()

	name, value := index.AllPostingsKey()
	postings, err := ir.Postings(ctx, name, value)
	if err != nil {
		return samples, fmt.Errorf("the index cannot be read: %w", err)
	}
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	var n int64
	for postings.Next() && ctx.Err() == nil {
		if err := ir.Series(postings.At(), &builder, &metas); err != nil {
			return samples, fmt.Errorf("series %d cannot be read: %w", postings.At(), err)
		}
		for _, m := range metas {
			k, err := countSamples(cr, m)
			if err != nil {
				return samples, fmt.Errorf("a chunk of %s cannot be read: %w", builder.Labels(), err)
			}
			n += k
		}
	}
	if err := errors.Join(postings.Err(), ctx.Err()); err != nil {
		return samples, err
	}
	if n != samples {
		return samples, fmt.Errorf("the block has %d samples where %d were written", n, samples)
	}
	return samples, nil
}

func countSamples(cr tsdb.ChunkReader, m chunks.Meta) (n int64, err error) {
	c, _, err := cr.ChunkOrIterable(m)
	if err != nil {
		return 0, err
	}
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		n++
	}
	return n, it.Err()
}

// verifyLog reads the write-ahead log and its last checkpoint.
func verifyLog(ctx context.Context, log *slog.Logger, dir string, repair bool) (found []telemetry.Damage, err error) {
	checkpoint, _, err := wlog.LastCheckpoint(dir)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return nil, fmt.Errorf("list write-ahead log: %w", err)
	}
	if err == nil {
		if problem := readLog(ctx, checkpoint); problem != nil {
			damage := telemetry.Damage{Store: "metrics", File: checkpoint, What: "the checkpoint of the write-ahead log is damaged: " + problem.Error()}
			if repair {
				if damage.Repair, err = setAside(checkpoint); err != nil {
					return []telemetry.Damage{damage}, err
				}
			}
			found = append(found, damage)
		}
	}
	problem := readLog(ctx, dir)
	if err := ctx.Err(); err != nil || problem == nil {
		return found, err
	}
	damage := telemetry.Damage{Store: "metrics", File: dir, What: "the write-ahead log is damaged: " + problem.Error()}
	if repair {
		if err := cutLog(log, dir, problem); err != nil {
			return append(found, damage), fmt.Errorf("cut the write-ahead log: %w", err)
		}
		damage.Repair = "cut before the damage; what was written after it and was not yet in a block is lost"
	}
	return append(found, damage), nil
}

func readLog(ctx context.Context, dir string) (err error) {
	in, err := wlog.NewSegmentsReader(dir)
	if err != nil {
		return err
	}
	defer in.Close()
	r := wlog.NewReader(in)
	for r.Next() && ctx.Err() == nil {
		// Each record is checked against its checksum by reading it.
	}
	return r.Err()
}

func cutLog(log *slog.Logger, dir string, problem error) error {
	var torn *wlog.CorruptionErr
	if !errors.As(problem, &torn) || torn.Segment < 0 {
		return errors.New("the place of the damage is not known: " + strings.TrimSpace(problem.Error()))
	}
	w, err := wlog.New(log, nil, dir, compression.Snappy)
	if err != nil {
		return err
	}
	return errors.Join(w.Repair(problem), w.Close())
}
