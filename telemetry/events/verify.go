package events

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/telemetry"
)

// damagedSuffix is what a file is renamed to when it is replaced; the store
// does not read it.
const damagedSuffix = ".damaged"

// Verify reads every row of the store in dir and returns what is damaged. With
// repair, damaged blocks are taken out, so that the rest of their day can be
// read again; a file that SQLite finds damaged is replaced by what can still
// be read of it and kept beside it under the suffix .damaged. No process may
// have the store open.
func Verify(ctx context.Context, dir string, repair bool) ([]telemetry.Damage, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil {
		return nil, fmt.Errorf("list event store: %w", err)
	}
	if len(paths) == 0 {
		return nil, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "%s holds no event store", dir)
	}
	slices.Sort(paths)
	var found []telemetry.Damage
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		damages, err := verifyFile(ctx, path, repair)
		found = append(found, damages...)
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

func verifyFile(ctx context.Context, path string, repair bool) ([]telemetry.Damage, error) {
	d, err := openDay(path)
	if err != nil {
		damage := telemetry.Damage{Store: "events", File: path, What: "cannot be opened: " + err.Error()}
		if repair {
			if err := setAside(path); err != nil {
				return []telemetry.Damage{damage}, err
			}
			damage.Repair = "set aside as " + filepath.Base(path) + damagedSuffix + "; nothing of it could be read"
		}
		return []telemetry.Damage{damage}, nil
	}
	if problem := d.quickCheck(ctx); problem != "" {
		damage := telemetry.Damage{Store: "events", File: path, What: "SQLite finds the file damaged: " + problem}
		if !repair {
			return []telemetry.Damage{damage}, d.close()
		}
		damage.Repair, err = d.rebuild(ctx)
		return []telemetry.Damage{damage}, err
	}
	found, err := d.verifyBlocks(ctx, repair)
	if err == nil {
		var damage *telemetry.Damage
		if damage, err = d.verifyErrors(ctx, repair); damage != nil {
			found = append(found, *damage)
		}
	}
	return found, errors.Join(err, d.close())
}

func (d *day) quickCheck(ctx context.Context) (problem string) {
	var result string
	switch err := d.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); {
	case err != nil:
		return err.Error()
	case result != "ok":
		return result
	}
	return ""
}

// setAside renames a file and its companions.
func setAside(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+suffix, path+suffix+damagedSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set aside a damaged file: %w", err)
		}
	}
	return nil
}

func (d *day) verifyBlocks(ctx context.Context, repair bool) (found []telemetry.Damage, err error) {
	for _, b := range d.blocks {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		problem := d.check(b)
		if problem == nil {
			continue
		}
		damage := telemetry.Damage{Store: "events", File: d.path, Block: b.id, Rows: int64(b.n), What: problem.Error()}
		if repair {
			if _, err := d.db.ExecContext(ctx, "DELETE FROM blocks WHERE id = ?", b.id); err != nil {
				return append(found, damage), fmt.Errorf("take block %d out of %s: %w", b.id, d.path, err)
			}
			damage.Repair = "taken out; its rows are lost"
		}
		found = append(found, damage)
	}
	return found, nil
}

// check reads a block against what is known of it.
func (d *day) check(b block) error {
	in, err := d.read(b.id)
	if err != nil {
		return err
	}
	rows := 0
	for r := (row{}); ; rows++ {
		ok, _, err := in.next(&r, nil)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if r.time < b.min || r.time > b.max {
			return errors.New("a row lies outside the block's times")
		}
		for i, v := range r.ids[:indexed] {
			if v != "" && !b.filter.has(key(i, v)) {
				return errors.New("a row is not in the block's filter")
			}
		}
	}
	if rows != b.n {
		return fmt.Errorf("the block has %d rows where %d were written", rows, b.n)
	}
	return nil
}

// verifyErrors reads the table of rows that carry an error code.
func (d *day) verifyErrors(ctx context.Context, repair bool) (*telemetry.Damage, error) {
	bad, err := d.badErrors(ctx)
	if err != nil || len(bad) == 0 {
		return nil, err
	}
	damage := &telemetry.Damage{Store: "events", File: d.path, Rows: int64(len(bad)), What: "rows in the table of errors cannot be read"}
	if !repair {
		return damage, nil
	}
	for _, id := range bad {
		if _, err := d.db.ExecContext(ctx, "DELETE FROM errors WHERE rowid = ?", id); err != nil {
			return damage, fmt.Errorf("take a row out of %s: %w", d.path, err)
		}
	}
	damage.Repair = "taken out; the rows are still found by their other identifiers"
	return damage, nil
}

func (d *day) badErrors(ctx context.Context) (bad []int64, err error) {
	rows, err := d.db.QueryContext(ctx, "SELECT rowid, data FROM errors")
	if err != nil {
		return nil, fmt.Errorf("read errors of %s: %w", d.path, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var raw []byte
		if err := rows.Scan(&id, &raw); err != nil {
			return nil, fmt.Errorf("read errors of %s: %w", d.path, err)
		}
		var r row
		in, err := newReader(raw)
		if err == nil {
			_, _, err = in.next(&r, nil)
		}
		if err != nil {
			bad = append(bad, id)
		}
	}
	return bad, rows.Err()
}

// rebuild replaces the file by what can still be read of it, and closes it.
func (d *day) rebuild(ctx context.Context) (done string, err error) {
	fresh := d.path + ".rebuilt"
	if err := errors.Join(removeAll(fresh), ctx.Err()); err != nil {
		return "", errors.Join(err, d.close())
	}
	into, err := openDay(fresh)
	if err != nil {
		return "", errors.Join(err, d.close())
	}
	blocks, rows, err := d.salvage(into)
	err = errors.Join(err, into.close(), d.close())
	if err != nil {
		return "", fmt.Errorf("rebuild %s: %w", d.path, err)
	}
	if err := setAside(d.path); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, d.path); err != nil {
		return "", fmt.Errorf("rebuild %s: %w", d.path, err)
	}
	return fmt.Sprintf("rebuilt with the %d of %d blocks and the %d errors that could be read; the damaged file is kept as %s",
		blocks, len(d.blocks), rows, filepath.Base(d.path)+damagedSuffix), nil
}

func removeAll(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// salvage copies what can be read, block by block and row by row, so that one
// damaged page costs what stands on it and no more.
func (d *day) salvage(into *day) (blocks int, rows int64, err error) {
	tx, err := into.db.Begin()
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = tx.Rollback() }() // without effect after Commit
	for _, b := range d.blocks {
		if d.check(b) != nil {
			continue
		}
		n := newBlock{block: b}
		if err := d.db.QueryRow("SELECT data FROM blocks WHERE id = ?", b.id).Scan(&n.data); err != nil {
			continue
		}
		if err := insert(tx, &n); err != nil {
			return 0, 0, err
		}
		blocks++
	}
	var last sql.NullInt64
	if d.db.QueryRow("SELECT max(rowid) FROM errors").Scan(&last) == nil {
		for id := int64(1); id <= last.Int64; id++ {
			var e errorRow
			err := d.db.QueryRow("SELECT code, time, tenant, service, version, name, trace, data FROM errors WHERE rowid = ?", id).
				Scan(&e.code, &e.time, &e.tenant, &e.service, &e.version, &e.name, &e.trace, &e.raw)
			if err != nil {
				continue // not there, or not readable
			}
			if _, err := tx.Exec(insertError, e.code, e.time, e.tenant, e.service, e.version, e.name, e.trace, e.raw); err != nil {
				return 0, 0, err
			}
			rows++
		}
	}
	return blocks, rows, tx.Commit()
}
