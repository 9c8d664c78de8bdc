// Package metrics is the metric store: an embedded Prometheus TSDB that takes
// OTLP metrics and answers PromQL.
//
// A batch is in the operating system's hands before it is acknowledged, so
// that kill -9 of the process loses nothing that was acknowledged. The
// package never listens on a port and knows no metric by name; names and
// queries live in package dictionary.
package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/headgate/headgate"
)

// defaultTenantSeries bounds the active series of one tenant.
const defaultTenantSeries = 100_000

// defaultSeries bounds all active series: each costs two to four KiB of memory,
// and whoever may send for all tenants can make them up.
const defaultSeries = 1_000_000

// promQL parses queries. It has no state.
var promQL = parser.NewParser(parser.Options{})

// Options tune a [Store]. The zero value of every field means its default.
type Options struct {
	Retention    time.Duration // 15 days
	MaxBytes     int64         // of blocks on disk; 0 is no limit
	OutOfOrder   time.Duration // how late a point may be; 1 minute
	QueryTimeout time.Duration // 30 s
	QuerySamples int           // samples one query may load; 20 million
	// TenantSeries bounds the active series per tenant_id (and those without
	// one), so that one tenant cannot drown the others; 100 000.
	TenantSeries int
	Series       int          // active series of all tenants; 1 000 000
	Logger       *slog.Logger // discards
	Now          func() time.Time
}

// Store is the metric store. It is safe for concurrent use.
type Store struct {
	intake
	evaluation
	db      *tsdb.DB
	engine  *promql.Engine
	tenants *cardinality
}

// Open opens or creates the store in dir and takes its lock file. Only one
// process can have it open.
func Open(dir string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create metric store: %w", err)
	}
	s := &Store{
		intake:  intake{now: o.Now},
		tenants: newCardinality(cmp.Or(o.TenantSeries, defaultTenantSeries), cmp.Or(o.Series, defaultSeries)),
	}
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = cmp.Or(o.Retention, 15*24*time.Hour).Milliseconds()
	opts.MaxBytes = o.MaxBytes
	opts.OutOfOrderTimeWindow = cmp.Or(o.OutOfOrder, time.Minute).Milliseconds()
	opts.WALCompression = compression.Snappy
	opts.SeriesLifecycleCallback = s.tenants
	if err := undoRepairs(dir); err != nil {
		return nil, fmt.Errorf("restore the metric store's write-ahead log: %w", err)
	}
	db, err := tsdb.Open(dir, o.Logger, nil, opts, nil)
	if errors.Is(err, syscall.ENOSPC) {
		return nil, commitError(err)
	}
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
			"cannot open the metric store in %s; another process may have it open, or the folder is damaged or not writable", dir).Wrap(err)
	}
	s.db = db
	s.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               o.Logger,
		MaxSamples:           cmp.Or(o.QuerySamples, 20_000_000),
		Timeout:              cmp.Or(o.QueryTimeout, 30*time.Second),
		LookbackDelta:        5 * time.Minute,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               promQL,
		NoStepSubqueryIntervalFn: func(int64) int64 {
			return time.Minute.Milliseconds()
		},
	})
	return s, nil
}

// undoRepairs puts back what a repair of the write-ahead log had set aside and
// not written again when it was interrupted, by a kill or a full disk. The TSDB
// would go on without it, and what it holds was acknowledged.
func undoRepairs(dir string) error {
	const suffix = ".repair"
	for _, log := range []string{"wal", "wbl"} {
		segments, err := filepath.Glob(filepath.Join(dir, log, "[0-9]*"))
		if err != nil {
			return err
		}
		for i, aside := range segments {
			segment, ok := strings.CutSuffix(aside, suffix)
			if !ok || i < len(segments)-1 {
				continue // the repair would remove what was written since
			}
			if err := os.Rename(aside, segment); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close waits for running compactions and releases the directory.
func (s *Store) Close() error {
	s.stopRules()
	if err := s.engine.Close(); err != nil {
		return fmt.Errorf("close query engine: %w", err)
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close metric store: %w", err)
	}
	return nil
}
