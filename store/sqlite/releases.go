package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
	"github.com/headgate/headgate/pipeline"
	"github.com/headgate/headgate/rollout"
)

const releaseColumns = `phase, plan_version, attempt, gen, epoch, next_run_at, deadline_at, stage_started_at, release, plan, state`

func scanRelease(row interface{ Scan(...any) error }) (pipeline.Record, error) {
	var r pipeline.Record
	var next, deadline, started int64
	var release, plan, state []byte
	err := row.Scan(&r.Phase, &r.PlanVersion, &r.Attempt, &r.Gen, &r.Epoch, &next, &deadline, &started, &release, &plan, &state)
	if err != nil {
		return r, err
	}
	if next == never {
		next = 0
	}
	r.NextRunAt, r.DeadlineAt, r.StageStartedAt = fromMicros(next), fromMicros(deadline), fromMicros(started)
	return r, errors.Join(
		json.Unmarshal(release, &r.Release), json.Unmarshal(plan, &r.Plan), json.Unmarshal(state, &r.State))
}

// CreateRelease implements [pipeline.Store].
func (db *DB) CreateRelease(ctx context.Context, c pipeline.Commit) (pipeline.Record, error) {
	r := c.Record
	release, err := toJSON(r.Release)
	if err != nil {
		return r, err
	}
	plan, err := toJSON(r.Plan)
	if err != nil {
		return r, err
	}
	state, err := toJSON(r.State)
	if err != nil {
		return r, err
	}
	err = db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO releases
			(id, service, digest, created_at, `+releaseColumns+`) VALUES (`+placeholders(15)+`) ON CONFLICT DO NOTHING`,
			r.ID, r.Service, r.Digest, micros(r.CreatedAt), r.Phase, r.PlanVersion, r.Attempt, r.Gen, r.Epoch,
			nextRun(r), micros(r.DeadlineAt), micros(r.StageStartedAt), release, plan, state)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return errors.Join(err, refuseQuarantined(ctx, tx, r), insertTrail(ctx, tx, c))
		}
		stored, err := scanRelease(tx.QueryRowContext(ctx, `SELECT `+releaseColumns+` FROM releases WHERE id = ?`, r.ID))
		if err != nil {
			return err
		}
		if stored.Digest != r.Digest || stored.Service != r.Service || stored.Version != r.Version {
			return headgate.Errorf(headgate.CodeIdempotencyConflict, headgate.ClassBusinessRule,
				"release %s exists with another digest, version or service; choose a new id", r.ID)
		}
		r = stored
		return nil
	})
	return r, err
}

func refuseQuarantined(ctx context.Context, tx *sql.Tx, r pipeline.Record) error {
	var by string
	err := tx.QueryRowContext(ctx, `SELECT release_id FROM quarantine WHERE service = ? AND digest = ?`, r.Service, r.Digest).Scan(&by)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && by != r.ID {
		err = headgate.Errorf(headgate.CodeDigestQuarantined, headgate.ClassBusinessRule,
			"%s was rolled back as release %s and is quarantined; ship a new build, or have two people release this one (headgate quarantine release)", r.Digest, by)
	}
	return err
}

// insertTrail writes the runs, events and ticks of a commit.
func insertTrail(ctx context.Context, tx *sql.Tx, c pipeline.Commit) error {
	for _, run := range c.Runs {
		doc, err := toJSON(run)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO stage_runs (release_id, stage, started_at, run) VALUES (?, ?, ?, ?)
			ON CONFLICT (release_id, stage) DO UPDATE SET run = excluded.run`, run.ReleaseID, run.Stage, micros(run.StartedAt), doc)
		if err != nil {
			return err
		}
	}
	for _, ev := range c.Events {
		if err := insertEvent(ctx, tx, "", ev); err != nil {
			return err
		}
	}
	for _, t := range c.Ticks {
		tick, err := toJSON(t.Tick)
		if err != nil {
			return err
		}
		decision, err := toJSON(t.Decision)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO ticks (release_id, seq, tick, decision) VALUES (?, ?, ?, ?)`,
			c.Record.ID, t.Seq, tick, decision)
		if err != nil {
			return err
		}
	}
	return nil
}

// Release implements [pipeline.Store].
func (db *DB) Release(ctx context.Context, id string) (pipeline.Record, error) {
	r, err := scanRelease(db.r.QueryRowContext(ctx, `SELECT `+releaseColumns+` FROM releases WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return r, headgate.Errorf(headgate.CodeReleaseNotFound, headgate.ClassBusinessRule,
			"there is no release %s; headgate release list shows those there are", id)
	}
	return r, storeError(err)
}

// Releases returns the newest releases, newest first, of one service or of all
// when service is empty, and of the tenants or of all when there are none. What
// belongs to no tenant is everybody's.
func (db *DB) Releases(ctx context.Context, service string, limit int, tenants ...string) (out []pipeline.Record, err error) {
	where, args := `? IN ('', service)`, []any{service}
	if len(tenants) > 0 {
		where += ` AND COALESCE(json_extract(release, '$.tenant_id'), '') IN ('', ` + placeholders(len(tenants)) + `)`
		for _, t := range tenants {
			args = append(args, t)
		}
	}
	rows, err := db.r.QueryContext(ctx, `SELECT `+releaseColumns+` FROM releases WHERE `+where+`
		ORDER BY created_at DESC, id LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		r, err := scanRelease(rows)
		if err != nil {
			return nil, storeError(err)
		}
		out = append(out, r)
	}
	return out, storeError(rows.Err())
}

// Claim implements [pipeline.Store].
func (db *DB) Claim(ctx context.Context, owner string, ttl time.Duration, versions ...int) (r pipeline.Record, facts []pipeline.Fact, ok bool, err error) {
	args := []any{owner, ttl.Microseconds()}
	for _, v := range versions {
		args = append(args, v)
	}
	err = db.write(ctx, func(tx *sql.Tx) error {
		const now = `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`
		r, err = scanRelease(tx.QueryRowContext(ctx, `UPDATE releases SET
			lease_owner = ?, lease_until = `+now+` + ?, epoch = (SELECT value + 1 FROM epochs WHERE id = 1)
			WHERE id = (SELECT id FROM releases WHERE phase IN ('running', 'rolling_back') AND next_run_at <= `+now+`
				AND lease_until <= `+now+` AND plan_version IN (`+placeholders(len(versions))+`) ORDER BY next_run_at LIMIT 1)
			RETURNING `+releaseColumns, args...))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		ok = true
		var epoch int64
		return nextEpoch(ctx, tx, 0, &epoch)
	})
	if err != nil || !ok {
		return r, nil, false, err
	}
	facts, err = db.Facts(ctx, r.ID)
	return r, facts, err == nil, err
}

// Facts implements [pipeline.Store].
func (db *DB) Facts(ctx context.Context, id string) ([]pipeline.Fact, error) {
	return query[pipeline.Fact](ctx, db.r, `SELECT fact FROM facts WHERE release_id = ? ORDER BY seq`, id)
}

// Extend implements [pipeline.Store].
func (db *DB) Extend(ctx context.Context, id string, epoch int64, ttl time.Duration) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE releases SET lease_until = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?
			WHERE id = ? AND epoch = ? AND lease_owner <> ''`, ttl.Microseconds(), id, epoch)
		return mustChange(res, err, id)
	})
}

func mustChange(res sql.Result, err error, id string) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return headgate.Errorf(headgate.CodeStaleEpoch, headgate.ClassTransient, "release %s has moved on", id)
}

// Commit implements [pipeline.Store].
func (db *DB) Commit(ctx context.Context, c pipeline.Commit) error {
	r := c.Record
	return db.write(ctx, func(tx *sql.Tx) error {
		var now int64
		if err := tx.QueryRowContext(ctx, `SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)`).Scan(&now); err != nil {
			return err
		}
		r.UpdatedAt = fromMicros(now)
		release, err := toJSON(r.Release)
		if err != nil {
			return err
		}
		state, err := toJSON(r.State)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE releases SET phase = ?, attempt = ?, deadline_at = ?, stage_started_at = ?,
			release = ?, state = ?, lease_owner = '', lease_until = 0,
			next_run_at = CASE WHEN gen > ? THEN ? ELSE ? END WHERE id = ? AND epoch = ? AND lease_owner <> ''`,
			r.Phase, r.Attempt, micros(r.DeadlineAt), micros(r.StageStartedAt), release, state,
			c.ClaimedGen, now, nextRun(r), r.ID, r.Epoch)
		if err := mustChange(res, err, r.ID); err != nil {
			return err
		}
		if err := insertTrail(ctx, tx, c); err != nil {
			return err
		}
		return changeService(ctx, tx, c, now)
	})
}

// never is when a release runs that waits for facts only.
const never = int64(1) << 62

func nextRun(r pipeline.Record) int64 {
	if r.NextRunAt.IsZero() {
		return never
	}
	return micros(r.NextRunAt)
}

// changeService writes what a commit says about the service itself.
func changeService(ctx context.Context, tx *sql.Tx, c pipeline.Commit, now int64) error {
	r := c.Record
	if c.HoldTraffic {
		if err := holdTraffic(ctx, tx, r); err != nil {
			return err
		}
	}
	if c.ReleaseTraffic {
		if err := unsetHolder(ctx, tx, r.Service, r.ID); err != nil {
			return err
		}
	}
	if c.Serve != nil {
		_, err := tx.ExecContext(ctx, `UPDATE services SET stable_version = ?, stable_url = ? WHERE name = ?`,
			c.Serve.Version, c.Serve.URL, r.Service)
		if err != nil {
			return err
		}
	}
	if c.Quarantine != "" {
		_, err := tx.ExecContext(ctx, `INSERT INTO quarantine (service, digest, release_id, at) VALUES (?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, r.Service, c.Quarantine, r.ID, now)
		return err
	}
	return nil
}

func holdTraffic(ctx context.Context, tx *sql.Tx, r pipeline.Record) error {
	if err := refuseQuarantined(ctx, tx, r); err != nil {
		return err
	}
	s, frozen, err := serviceState(ctx, tx, r.Service)
	switch {
	case err != nil:
		return err
	case frozen || (s.HeldBy != "" && s.HeldBy != r.ID):
		return active(r.Service, s.HeldBy)
	case s.Stable != r.Plan.Stable:
		return headgate.Errorf(pipeline.CodeStableMoved, headgate.ClassBusinessRule,
			"%s was compared with %s, but %s is stable by now; make a new release", r.ID, r.Plan.Stable.Version, s.Stable.Version)
	}
	return setHolder(ctx, tx, r.Service, r.ID)
}

// serviceState is a service's state, and whether a rollback of it is not over.
func serviceState(ctx context.Context, tx *sql.Tx, name string) (s control.ServiceState, frozen bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT held_by, stable_version, stable_url,
		EXISTS (SELECT 1 FROM rollbacks WHERE service = name AND restored = 0) FROM services WHERE name = ?`, name).
		Scan(&s.HeldBy, &s.Stable.Version, &s.Stable.URL, &frozen)
	if errors.Is(err, sql.ErrNoRows) {
		err = noService(name)
	}
	return s, frozen, err
}

func active(service, heldBy string) error {
	e := headgate.Errorf(headgate.CodeReleaseActive, headgate.ClassTransient,
		"another release of %s meets users, or the service is frozen after a rollback", service)
	if heldBy != "" {
		e = e.With("held_by", heldBy)
	}
	return e
}

func setHolder(ctx context.Context, tx *sql.Tx, service, by string) error {
	_, err := tx.ExecContext(ctx, `UPDATE services SET held_by = ? WHERE name = ?`, by, service)
	return err
}

func unsetHolder(ctx context.Context, tx *sql.Tx, service, by string) error {
	_, err := tx.ExecContext(ctx, `UPDATE services SET held_by = '' WHERE name = ? AND held_by = ?`, service, by)
	return err
}

// Signal implements [pipeline.Store].
func (db *DB) Signal(ctx context.Context, id string, f pipeline.Fact, ev headgate.Event) error {
	doc, err := toJSON(f)
	if err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE releases SET gen = gen + 1,
			next_run_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE id = ? AND phase <> 'done'`, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, absentOrDone(ctx, tx, id))
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO facts (release_id, fact) VALUES (?, ?)`, id, doc); err != nil {
			return err
		}
		return insertEvent(ctx, tx, "", ev)
	})
}

func absentOrDone(ctx context.Context, tx *sql.Tx, id string) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM releases WHERE id = ?`, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return headgate.Errorf(headgate.CodeReleaseNotFound, headgate.ClassBusinessRule, "there is no release %s", id)
	}
	return errors.Join(err, headgate.Errorf(headgate.CodeReleaseDone, headgate.ClassBusinessRule, "release %s has ended", id))
}

// NextWake implements [pipeline.Store].
func (db *DB) NextWake(ctx context.Context, versions ...int) (time.Time, bool, error) {
	var args []any
	for _, v := range versions {
		args = append(args, v)
	}
	var at sql.NullInt64
	err := db.r.QueryRowContext(ctx, `SELECT MIN(MAX(next_run_at, lease_until)) FROM releases
		WHERE phase IN ('running', 'rolling_back') AND plan_version IN (`+placeholders(len(versions))+`)`, args...).Scan(&at)
	return fromMicros(at.Int64), at.Valid && at.Int64 < never, storeError(err)
}

// StageRuns implements [pipeline.Store].
func (db *DB) StageRuns(ctx context.Context, id string) ([]headgate.StageRun, error) {
	return query[headgate.StageRun](ctx, db.r, `SELECT run FROM stage_runs WHERE release_id = ? ORDER BY started_at, rowid`, id)
}

// Ticks implements [pipeline.Store].
func (db *DB) Ticks(ctx context.Context, id string) ([]pipeline.TickRow, error) {
	return query[pipeline.TickRow](ctx, db.r, `SELECT json_object('seq', seq, 'tick', json(tick), 'decision', json(decision))
		FROM ticks WHERE release_id = ? ORDER BY seq`, id)
}

// RegisterService makes a service known with where its stable version
// answers. A service that is known already keeps what releases made of it.
func (db *DB) RegisterService(ctx context.Context, name string, stable rollout.Backend) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO services (name, stable_version, stable_url) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
			name, stable.Version, stable.URL)
		return err
	})
}

// HoldService implements [control.Store].
func (db *DB) HoldService(ctx context.Context, name, by string) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		s, frozen, err := serviceState(ctx, tx, name)
		if err != nil {
			return err
		}
		if frozen || s.HeldBy != "" {
			return active(name, s.HeldBy)
		}
		return setHolder(ctx, tx, name, by)
	})
}

// ReleaseService implements [control.Store].
func (db *DB) ReleaseService(ctx context.Context, name, by string) error {
	return db.write(ctx, func(tx *sql.Tx) error { return unsetHolder(ctx, tx, name, by) })
}

// SetStable changes which version all users of a service meet.
func (db *DB) SetStable(ctx context.Context, name string, stable rollout.Backend) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE services SET stable_version = ?, stable_url = ? WHERE name = ?`, stable.Version, stable.URL, name)
		return err
	})
}

// Service returns a service's state, SERVICE_NOT_FOUND when it is not known.
func (db *DB) Service(ctx context.Context, name string) (control.ServiceState, error) {
	var s control.ServiceState
	err := db.r.QueryRowContext(ctx, `SELECT stable_version, stable_url, held_by FROM services WHERE name = ?`, name).
		Scan(&s.Stable.Version, &s.Stable.URL, &s.HeldBy)
	if errors.Is(err, sql.ErrNoRows) {
		return s, noService(name)
	}
	if err != nil {
		return s, fmt.Errorf("service %s: %w", name, storeError(err))
	}
	return s, nil
}

func noService(name string) error {
	return headgate.Errorf(headgate.CodeServiceNotFound, headgate.ClassBusinessRule,
		"no service is named %s; start the server with its headgate.yaml", name)
}
