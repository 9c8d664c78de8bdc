package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/instrument"
)

// The types of job.
const (
	JobParse    = "parse"
	JobEvaluate = "evaluate"
	JobResume   = "resume"
)

// The states of a job.
const (
	JobQueued    = "queued"
	JobRunning   = "running"
	JobSucceeded = "succeeded"
	JobFailed    = "failed"
)

// MaxAttempts is the first try and three retries.
const MaxAttempts = 4

// adoptAfter is how long a due job waits for a worker of its own version
// before any worker may take it.
const adoptAfter = 10 * time.Second

// Job is one unit of work on a document or an evaluation.
type Job struct {
	ID        string
	TenantID  string
	Type      string
	SubjectID string
	Version   string
	Carrier   instrument.Carrier
	Status    string
	// Attempts counts the tries, the running one included.
	Attempts  int
	ErrorCode string
	CostUSD   float64
	CreatedAt time.Time
	UpdatedAt time.Time

	leaseOwner string
}

// Enqueue adds a job for the version that took the request and returns its
// id.
func (tx *Tx) Enqueue(ctx context.Context, tenant, jobType, subject, version string) (string, error) {
	id := headgate.NewID("job")
	instrument.Annotate(ctx, instrument.Fields{JobID: id})
	carrier, err := json.Marshal(tx.s.tel.Inject(ctx))
	if err != nil {
		return "", err
	}
	now := tx.s.now().UnixNano()
	_, err = tx.ExecContext(ctx, `INSERT INTO jobs (id, tenant_id, type, subject_id, version, carrier, status, run_at_ns, created_ns, updated_ns)
		VALUES (?,?,?,?,?,?,?,?,?,?)`, id, tenant, jobType, subject, version, string(carrier), JobQueued, now, now, now)
	if err != nil {
		return "", fmt.Errorf("enqueue: %w", err)
	}
	return id, tx.s.tel.RecordEvent(ctx, tx, "job_queued", map[string]string{"job_type": jobType})
}

const jobColumns = `id, tenant_id, type, subject_id, version, carrier, status, attempts, error_code, cost_usd, created_ns, updated_ns, lease_owner`

func scanJob(row interface{ Scan(...any) error }) (Job, error) {
	var j Job
	var carrier string
	var created, updated int64
	err := row.Scan(&j.ID, &j.TenantID, &j.Type, &j.SubjectID, &j.Version, &carrier, &j.Status, &j.Attempts,
		&j.ErrorCode, &j.CostUSD, &created, &updated, &j.leaseOwner)
	if err != nil {
		return Job{}, err
	}
	j.CreatedAt, j.UpdatedAt = time.Unix(0, created).UTC(), time.Unix(0, updated).UTC()
	if err := json.Unmarshal([]byte(carrier), &j.Carrier); err != nil {
		return Job{}, fmt.Errorf("carrier of %s: %w", j.ID, err)
	}
	return j, nil
}

// Job returns a job of the tenant.
func (s *Store) Job(ctx context.Context, tenant, id string) (Job, error) {
	j, err := scanJob(s.read.QueryRowContext(ctx, `SELECT `+jobColumns+` FROM jobs WHERE id=? AND tenant_id=?`, id, tenant))
	return j, orNotFound(err, "job")
}

// due finds the next job: of the worker's own version, or of any that nobody
// took for adoptAfter; queued, or running under a lapsed lease.
const due = `SELECT id FROM jobs WHERE
	(status='queued' AND run_at_ns<=?1 AND (version=?2 OR run_at_ns<=?3))
	OR (status='running' AND lease_until_ns<=?1 AND (version=?2 OR lease_until_ns<=?3))
	ORDER BY run_at_ns LIMIT 1`

// JobOf returns the id of the newest job of a tenant about a document or an
// evaluation; empty when there is none.
func (s *Store) JobOf(ctx context.Context, tenant, subject string) (string, error) {
	var id string
	err := s.read.QueryRowContext(ctx, `SELECT id FROM jobs WHERE tenant_id=? AND subject_id=? ORDER BY created_ns DESC LIMIT 1`, tenant, subject).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// Lease takes the next due job for owner until the lease runs out, or returns
// nil. A job whose worker died comes back with its attempt counted.
func (s *Store) Lease(ctx context.Context, owner, version string, lease time.Duration) (*Job, error) {
	now := s.now()
	args := []any{now.UnixNano(), version, now.Add(-adoptAfter).UnixNano()}
	// An idle worker only reads, so that it never stands in a writer's way.
	var id string
	err := s.read.QueryRowContext(ctx, due, args...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a job: %w", err)
	}
	var job Job
	err = s.inTx(ctx, func(tx *Tx) error {
		job, err = scanJob(tx.QueryRowContext(ctx, `UPDATE jobs SET status='running', attempts=attempts+1, lease_owner=?4, lease_until_ns=?5, updated_ns=?1
			WHERE id=(`+due+`) RETURNING `+jobColumns, append(args, owner, now.Add(lease).UnixNano())...))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lease a job: %w", err)
	}
	return &job, nil
}

// ErrLeaseLost says that another worker has taken the job over; what this one
// did must not count.
var ErrLeaseLost = errors.New("the job's lease was lost")

// finish updates a job only while its lease is still the caller's.
func (tx *Tx) finish(ctx context.Context, j Job, set string, args ...any) error {
	args = append(args, tx.s.now().UnixNano(), j.ID, j.leaseOwner, j.Attempts)
	res, err := tx.ExecContext(ctx, `UPDATE jobs SET `+set+`, lease_owner='', updated_ns=?
		WHERE id=? AND status='running' AND lease_owner=? AND attempts=?`, args...)
	if err != nil {
		return fmt.Errorf("finish job: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(ErrLeaseLost, err)
	}
	return nil
}

// Succeed commits a job's result together with its success.
func (s *Store) Succeed(ctx context.Context, j Job, costUSD float64, result func(*Tx) error) error {
	return s.inTx(ctx, func(tx *Tx) error {
		if err := tx.finish(ctx, j, `status='succeeded', error_code='', cost_usd=?`, costUSD); err != nil {
			return err
		}
		if err := result(tx); err != nil {
			return err
		}
		return s.tel.RecordEvent(ctx, tx, "job_succeeded", map[string]string{"job_type": j.Type})
	})
}

// Retry puts a job back into the queue, due after delay.
func (s *Store) Retry(ctx context.Context, j Job, code string, delay time.Duration) error {
	carrier, err := json.Marshal(s.tel.InjectRetry(ctx, j.Carrier))
	if err != nil {
		return err
	}
	return s.inTx(ctx, func(tx *Tx) error {
		err := tx.finish(ctx, j, `status='queued', error_code=?, carrier=?, run_at_ns=?`, code, string(carrier), s.now().Add(delay).UnixNano())
		if err != nil {
			return err
		}
		return s.tel.RecordEvent(ctx, tx, "job_retried", map[string]string{"job_type": j.Type, "attempt": fmt.Sprint(j.Attempts)})
	})
}

// Fail writes the dead letter and then marks the job and its subject failed,
// in one transaction; the schema refuses the other order.
func (s *Store) Fail(ctx context.Context, j Job, code, message string) error {
	return s.inTx(ctx, func(tx *Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO dead_letters (id, job_id, tenant_id, job_type, subject_id, version, error_code, message, attempts, created_ns)
			VALUES (?,?,?,?,?,?,?,?,?,?)`, headgate.NewID("dlq"), j.ID, j.TenantID, j.Type, j.SubjectID, j.Version, code, message, j.Attempts, s.now().UnixNano())
		if err != nil {
			return fmt.Errorf("dead-letter: %w", err)
		}
		if err := s.tel.RecordEvent(ctx, tx, "job_dead_lettered", map[string]string{"job_type": j.Type}); err != nil {
			return err
		}
		if err := tx.finish(ctx, j, `status='failed', error_code=?`, code); err != nil {
			return err
		}
		subject := `UPDATE evaluations SET status='failed' WHERE id=?`
		if j.Type == JobParse {
			subject = `UPDATE documents SET status='unreadable' WHERE id=?`
		}
		if _, err := tx.ExecContext(ctx, subject, j.SubjectID); err != nil {
			return err
		}
		return s.tel.RecordEvent(ctx, tx, "job_failed", map[string]string{"job_type": j.Type})
	})
}

// DeadLetter is a job that was given up.
type DeadLetter struct {
	ID        string    `json:"dlq_id"`
	JobID     string    `json:"job_id"`
	JobType   string    `json:"job_type"`
	SubjectID string    `json:"subject_id"`
	Version   string    `json:"version"`
	ErrorCode string    `json:"error_code"`
	Message   string    `json:"message"`
	Attempts  int       `json:"attempts"`
	CreatedAt time.Time `json:"created_at"`
}

// DeadLetters returns the tenant's newest dead letters, at most limit.
func (s *Store) DeadLetters(ctx context.Context, tenant string, limit int) ([]DeadLetter, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, job_id, job_type, subject_id, version, error_code, message, attempts, created_ns
		FROM dead_letters WHERE tenant_id=? ORDER BY created_ns DESC LIMIT ?`, tenant, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []DeadLetter{}
	for rows.Next() {
		var d DeadLetter
		var at int64
		if err := rows.Scan(&d.ID, &d.JobID, &d.JobType, &d.SubjectID, &d.Version, &d.ErrorCode, &d.Message, &d.Attempts, &at); err != nil {
			return nil, err
		}
		d.CreatedAt = time.Unix(0, at).UTC()
		out = append(out, d)
	}
	return out, rows.Err()
}

// Backlog is what waits for one tenant.
type Backlog struct{ Pending, Retrying, DeadLetters, Events int64 }

// Backlogs returns the waiting work of one version by tenant. Tenants without
// any are left out.
func (s *Store) Backlogs(ctx context.Context, version string) (map[string]Backlog, error) {
	rows, err := s.read.QueryContext(ctx, `
		SELECT tenant_id, sum(attempts=0), sum(attempts>0), 0, 0 FROM jobs WHERE status='queued' AND version=?1 GROUP BY tenant_id
		UNION ALL SELECT tenant_id, 0, 0, count(*), 0 FROM dead_letters WHERE version=?1 GROUP BY tenant_id
		UNION ALL SELECT tenant_id, 0, 0, 0, count(*) FROM db_events WHERE published=0 AND version=?1 GROUP BY tenant_id`, version)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]Backlog{}
	for rows.Next() {
		var tenant string
		var b Backlog
		if err := rows.Scan(&tenant, &b.Pending, &b.Retrying, &b.DeadLetters, &b.Events); err != nil {
			return nil, err
		}
		sum := out[tenant]
		out[tenant] = Backlog{sum.Pending + b.Pending, sum.Retrying + b.Retrying, sum.DeadLetters + b.DeadLetters, sum.Events + b.Events}
	}
	return out, rows.Err()
}
