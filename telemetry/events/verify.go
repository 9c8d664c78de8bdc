package events

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/headgate/headgate"
)

// Damage is one thing that [Verify] found wrong.
type Damage struct {
	File  string `json:"file"`
	Block int64  `json:"block,omitempty"` // 0 when the file itself is damaged
	Rows  int    `json:"rows,omitempty"`  // how many rows it concerns
	What  string `json:"what"`
	// Repaired says that the damaged block was taken out, so that the rest of
	// the day can be read again. Its rows are lost.
	Repaired bool `json:"repaired,omitempty"`
}

// Verify reads every row of the store in dir and returns what is damaged. With
// repair it takes damaged blocks out. No process may have the store open.
func Verify(ctx context.Context, dir string, repair bool) ([]Damage, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "events-*.db"))
	if err != nil {
		return nil, fmt.Errorf("list event store: %w", err)
	}
	if len(paths) == 0 {
		return nil, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "%s holds no event store", dir)
	}
	slices.Sort(paths)
	var found []Damage
	for _, path := range paths {
		d, err := openDay(path)
		if err != nil {
			found = append(found, Damage{File: path, What: err.Error()})
			continue
		}
		damages, err := d.verify(ctx, repair)
		found = append(found, damages...)
		if err := errors.Join(err, d.close()); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (d *day) verify(ctx context.Context, repair bool) (found []Damage, err error) {
	var result string
	if err := d.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil || result != "ok" {
		found = append(found, Damage{File: d.path, What: fmt.Sprintf("SQLite finds the file damaged: %s %v", result, err)})
	}
	for _, b := range d.blocks {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		problem := d.check(b)
		if problem == nil {
			continue
		}
		damage := Damage{File: d.path, Block: b.id, Rows: b.n, What: problem.Error()}
		if repair {
			if _, err := d.db.ExecContext(ctx, "DELETE FROM blocks WHERE id = ?", b.id); err != nil {
				return append(found, damage), fmt.Errorf("take block %d out of %s: %w", b.id, d.path, err)
			}
			damage.Repaired = true
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
			return fmt.Errorf("a row lies outside the block's times")
		}
		for i, v := range r.ids[:indexed] {
			if v != "" && !b.filter.has(key(i, v)) {
				return fmt.Errorf("a row is not in the block's filter")
			}
		}
	}
	if rows != b.n {
		return fmt.Errorf("the block has %d rows where %d were written", rows, b.n)
	}
	return nil
}
