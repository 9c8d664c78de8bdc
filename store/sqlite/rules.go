package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/control"
)

// digestInForce prefers a service's own rules to everybody's, whose service is
// the empty one.
const digestInForce = `SELECT digest FROM rule_changes WHERE rank > 0 AND service IN ('', ?) ORDER BY service DESC, rank DESC LIMIT 1`

// RulesInForce returns the digest of the rules that a service is judged by: its
// own, else everybody's, "" when there were never any.
func (db *DB) RulesInForce(ctx context.Context, service string) (string, error) {
	digest, _, err := db.rulesDigest.get(service, func() (string, bool, error) {
		digest, err := rulesInForce(db.r.QueryRowContext(ctx, digestInForce, service))
		return digest, err == nil, err
	})
	return digest, err
}

func rulesInForce(row *sql.Row) (string, error) {
	var digest string
	err := row.Scan(&digest)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return digest, storeError(err)
}

// RuleChanges returns every change of the rules, oldest first.
func (db *DB) RuleChanges(ctx context.Context) (out []control.RuleChange, err error) {
	rows, err := db.r.QueryContext(ctx, `SELECT seq, rank, change FROM rule_changes ORDER BY seq`)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	type inForce struct {
		index int
		rank  int64
	}
	current := map[string]inForce{}
	for rows.Next() {
		var c control.RuleChange
		var seq, rank int64
		var doc []byte
		if err := rows.Scan(&seq, &rank, &doc); err != nil {
			return nil, storeError(err)
		}
		if err := json.Unmarshal(doc, &c); err != nil {
			return nil, err
		}
		c.Seq = seq
		if rank > current[c.Service].rank {
			current[c.Service] = inForce{len(out), rank}
		}
		out = append(out, c)
	}
	for _, c := range current {
		out[c.index].InForce = true
	}
	return out, storeError(rows.Err())
}

// PutRuleChange keeps a change and its event. One with a Seq replaces what it
// was. One that comes into force does so only while its base is in force;
// otherwise it is RULES_MOVED.
func (db *DB) PutRuleChange(ctx context.Context, c control.RuleChange, ev headgate.Event) error {
	defer db.rulesDigest.forget()
	seq := c.Seq
	c.Seq, c.InForce = 0, false
	doc, err := toJSON(c)
	if err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error {
		var rank int64
		if !c.InForceAt.IsZero() {
			now, err := rulesInForce(tx.QueryRowContext(ctx, digestInForce, c.Service))
			if err != nil {
				return err
			}
			if now != c.Base {
				return control.ErrRulesMoved
			}
			if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(rank), 0) + 1 FROM rule_changes`).Scan(&rank); err != nil {
				return err
			}
		}
		var err error
		if seq == 0 {
			_, err = tx.ExecContext(ctx, `INSERT INTO rule_changes (digest, service, base, rank, change) VALUES (?, ?, ?, ?, ?)`, c.Digest, c.Service, c.Base, rank, doc)
		} else {
			_, err = tx.ExecContext(ctx, `UPDATE rule_changes SET rank = ?, change = ? WHERE seq = ? AND rank = 0`, rank, doc, seq)
		}
		if err != nil {
			return err
		}
		return insertEvent(ctx, tx, "", ev)
	})
}
