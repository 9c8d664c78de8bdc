package sqlite

import (
	"context"
	"errors"
)

// Check returns what SQLite's own integrity check finds in the database, one
// line per finding; none when it is sound.
func (db *DB) Check(ctx context.Context) (found []string, err error) {
	rows, err := db.r.QueryContext(ctx, `PRAGMA integrity_check(100)`)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(rows.Close())) }()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return found, storeError(err)
		}
		if line != "ok" {
			found = append(found, line)
		}
	}
	return found, storeError(rows.Err())
}
