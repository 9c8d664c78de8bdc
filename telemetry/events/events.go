// Package events is the store of logs and spans: one SQLite file per day that
// holds compressed blocks of rows, each with a filter that tells which
// identifiers it holds.
//
// A batch is acknowledged after its commit with synchronous=FULL, so that
// neither kill -9 nor a power cut loses it. The package never interprets what
// it stores; package timeline does.
package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// Options tune a [Store]. The zero value of every field means its default.
type Options struct {
	Retention time.Duration    // 15 days; whole days are dropped
	MaxBytes  int64            // on disk, oldest day dropped first; 0 is no limit
	Logger    *slog.Logger     // discards
	Now       func() time.Time // the wall clock
}

// Store keeps logs and spans. It is safe for concurrent use.
type Store struct {
	dir  string
	opts Options

	mu   sync.RWMutex
	days []*day // oldest first

	packing sync.Mutex // one maintenance at a time

	writes  chan *write
	closed  chan struct{} // closed by Close
	ended   chan struct{} // closed when nothing is committed any more
	closing sync.Once
	running sync.WaitGroup
}

// write is one batch on its way to the disk.
type write struct {
	block  newBlock
	errors []errorRow
	done   chan error
}

const (
	maxGroup     = 64 // batches in one commit
	compactEvery = 5 * time.Second
)

// Open opens or creates the store in dir.
func Open(dir string, o Options) (*Store, error) {
	o.Retention = cmp.Or(o.Retention, 15*24*time.Hour)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create event store: %w", err)
	}
	s := &Store{dir: dir, opts: o, writes: make(chan *write, maxGroup), closed: make(chan struct{}), ended: make(chan struct{})}
	paths, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil {
		return nil, fmt.Errorf("list event store: %w", err)
	}
	slices.Sort(paths)
	for _, p := range paths {
		d, err := openDay(p)
		if err != nil {
			return nil, errors.Join(headgate.Errorf(headgate.CodeUnavailable, headgate.ClassPermanent,
				"cannot open %s; another process may have it open, or it is damaged: move it away to start without that day", p).Wrap(err), s.closeDays())
		}
		s.days = append(s.days, d)
	}
	s.running.Go(s.commit)
	s.running.Go(s.maintain)
	return s, nil
}

// Close finishes the commit that is running and closes the files. Batches that
// still wait are refused.
func (s *Store) Close() error {
	s.closing.Do(func() { close(s.closed) })
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeDays()
}

func (s *Store) closeDays() error {
	var errs []error
	for _, d := range s.days {
		errs = append(errs, d.close())
	}
	s.days = nil
	return errors.Join(errs...)
}

// AppendLogs stores log records; see [telemetry.LogSink].
func (s *Store) AppendLogs(ctx context.Context, tenant string, ld plog.Logs) (telemetry.Rejected, error) {
	b := s.batch(tenant)
	b.logs(ld)
	return b.rejected, s.append(ctx, b)
}

// AppendTraces stores spans; see [telemetry.TraceSink]. The events of a span
// become log records.
func (s *Store) AppendTraces(ctx context.Context, tenant string, td ptrace.Traces) (telemetry.Rejected, error) {
	b := s.batch(tenant)
	b.traces(td)
	return b.rejected, s.append(ctx, b)
}

func (s *Store) batch(tenant string) *batch {
	return &batch{block: newBuilder(), tenant: tenant, received: s.opts.Now().UnixNano()}
}

// append hands the batch to the committer and waits for the disk.
func (s *Store) append(ctx context.Context, b *batch) error {
	if b.block.n == 0 {
		return nil
	}
	w := &write{block: b.block.finish(encoder), errors: b.errors, done: make(chan error, 1)}
	select {
	case s.writes <- w:
	case <-s.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-s.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done: // it was among the last
		return err
	default:
		return errClosed
	}
}

var errClosed = headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
	"the event store is shutting down; send the batch again")

// commit writes batches in groups, one transaction each, until Close.
func (s *Store) commit() {
	defer close(s.ended)
	for {
		select {
		case w := <-s.writes:
			s.commitGroup(s.group(w))
		case <-s.closed:
			return
		}
	}
}

// group takes what else is waiting.
func (s *Store) group(first *write) []*write {
	out := []*write{first}
	for len(out) < maxGroup {
		select {
		case w := <-s.writes:
			out = append(out, w)
		default:
			return out
		}
	}
	return out
}

func (s *Store) commitGroup(group []*write) {
	err := func() error {
		d, err := s.today()
		if err != nil {
			return err
		}
		return d.insert(group)
	}()
	if err != nil {
		err = writeError(err)
	}
	for _, w := range group {
		w.done <- err
	}
}

func writeError(err error) error {
	if strings.Contains(err.Error(), "disk is full") || strings.Contains(err.Error(), "no space left") {
		return headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
			"the disk of the event store is full; free space or lower HEADGATE_TELEMETRY_DAYS or HEADGATE_TELEMETRY_MB").Wrap(err)
	}
	return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
		"the event store could not write the batch; send it again").Wrap(err)
}

// today returns the day to write to, making it when it has begun.
func (s *Store) today() (*day, error) {
	path := filepath.Join(s.dir, "events-"+s.opts.Now().UTC().Format(time.DateOnly)+".db")
	if d := s.day(path); d != nil {
		return d, nil
	}
	d, err := openDay(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.days = append(s.days, d)
	slices.SortFunc(s.days, func(a, b *day) int { return strings.Compare(a.path, b.path) })
	return d, nil
}

func (s *Store) day(path string) *day {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, d := range s.days {
		if d.path == path {
			return d
		}
	}
	return nil
}

// maintain packs small blocks and drops old days until Close.
func (s *Store) maintain() {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Compact(); err != nil {
				s.opts.Logger.Warn("event store maintenance failed", "error", err)
			}
		case <-s.closed:
			return
		}
	}
}

// Compact packs small blocks into larger ones and drops what is beyond the
// retention. The store does so by itself every few seconds.
func (s *Store) Compact() error {
	s.packing.Lock()
	defer s.packing.Unlock()
	s.mu.RLock()
	days := slices.Clone(s.days)
	s.mu.RUnlock()
	errs := []error{s.expire()}
	for _, d := range days {
		for packed := true; packed; {
			select {
			case <-s.closed:
				return errors.Join(errs...)
			default:
			}
			var err error
			if packed, err = d.compact(); err != nil {
				errs = append(errs, fmt.Errorf("pack %s: %w", d.path, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// expire drops the days beyond the retention, oldest first. The newest day is
// never dropped.
func (s *Store) expire() error {
	oldest := filepath.Join(s.dir, "events-"+s.opts.Now().Add(-s.opts.Retention).UTC().Format(time.DateOnly)+".db")
	s.mu.Lock()
	defer s.mu.Unlock()
	var total int64
	for _, d := range s.days {
		total += d.size()
	}
	for len(s.days) > 1 {
		d := s.days[0]
		tooMuch := s.opts.MaxBytes > 0 && total > s.opts.MaxBytes
		if d.path >= oldest && !tooMuch {
			return nil
		}
		total -= d.size()
		s.days = s.days[1:]
		if err := d.remove(); err != nil {
			return fmt.Errorf("drop old events: %w", err)
		}
	}
	return nil
}
