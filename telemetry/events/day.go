package events

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite" // the driver
)

const schema = `
CREATE TABLE IF NOT EXISTS blocks (
	id     INTEGER PRIMARY KEY,
	min    INTEGER NOT NULL, -- ns of the first and last row
	max    INTEGER NOT NULL,
	n      INTEGER NOT NULL, -- rows
	filter BLOB NOT NULL,
	data   BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS errors (
	code    TEXT NOT NULL,
	time    INTEGER NOT NULL,
	tenant  TEXT NOT NULL,
	service TEXT NOT NULL,
	version TEXT NOT NULL,
	name    TEXT NOT NULL,
	trace   TEXT NOT NULL,
	data    BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS errors_by_code ON errors (code, time);
CREATE INDEX IF NOT EXISTS errors_by_time ON errors (time);
`

// The sizes of blocks in rows: those below packBelow are merged into blocks
// of up to packTo.
const (
	packBelow = 1024
	packTo    = 4096
	packFew   = 8 // how many small blocks there must be

	// packBytes is at which size a block is full, however few its rows are: it
	// is read as a whole.
	packBytes = 16 << 20
)

// day is one file.
type day struct {
	path string
	db   *sql.DB

	writing sync.Mutex // SQLite has one writer
	// mu is held by readers for the length of a query and by writers while
	// they change blocks, so that a block is not packed away under a reader.
	mu     sync.RWMutex
	blocks []block // oldest first
}

// block is what is known of a block without reading it.
type block struct {
	id       int64
	min, max int64
	n        int
	filter   filter
	full     bool // it has packBytes; known once somebody tried to pack it
}

// newBlock is a block that is not yet in the file.
type newBlock struct {
	block
	data []byte
}

func (b *builder) finish(z *zstd.Encoder) newBlock {
	return newBlock{
		block: block{min: b.min, max: b.max, n: b.n, filter: newFilter(b.keys)},
		data:  z.EncodeAll(b.raw(), nil),
	}
}

func openDay(path string) (*day, error) {
	db, err := sql.Open("sqlite", "file:"+path+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=cache_size(-4096)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(8)
	d := &day{path: path, db: db}
	if err := d.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return d, nil
}

func (d *day) load() error {
	if _, err := d.db.Exec(schema); err != nil {
		return err
	}
	rows, err := d.db.Query("SELECT id, min, max, n, filter FROM blocks ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var b block
		if err := rows.Scan(&b.id, &b.min, &b.max, &b.n, &b.filter); err != nil {
			return err
		}
		d.blocks = append(d.blocks, b)
	}
	return rows.Err()
}

func (d *day) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.db.Close()
}

func (d *day) remove() error {
	err := d.close()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if e := os.Remove(d.path + suffix); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (d *day) size() (bytes int64) {
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(d.path + suffix); err == nil {
			bytes += info.Size()
		}
	}
	return bytes
}

const insertError = "INSERT INTO errors (code, time, tenant, service, version, name, trace, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

const insertBlock = "INSERT INTO blocks (min, max, n, filter, data) VALUES (?, ?, ?, ?, ?)"

func insert(tx *sql.Tx, b *newBlock) error {
	res, err := tx.Exec(insertBlock, b.min, b.max, b.n, []byte(b.filter), b.data)
	if err != nil {
		return err
	}
	b.id, err = res.LastInsertId()
	return err
}

func insertErrors(tx *sql.Tx, rows []errorRow) error {
	if len(rows) == 0 {
		return nil
	}
	stmt, err := tx.Prepare(insertError)
	if err != nil {
		return err
	}
	defer func() { _ = stmt.Close() }() // the transaction tells what went wrong
	for _, e := range rows {
		if _, err := stmt.Exec(e.code, e.time, e.tenant, e.service, e.version, e.name, e.trace, e.raw); err != nil {
			return err
		}
	}
	return nil
}

// insert commits a group of batches.
func (d *day) insert(group []*write) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	tx, err := d.db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // without effect after Commit
	added := make([]block, 0, len(group))
	for _, w := range group {
		if err := insert(tx, &w.block); err != nil {
			return err
		}
		added = append(added, w.block.block)
		if err := insertErrors(tx, w.errors); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	d.mu.Lock()
	d.blocks = append(d.blocks, added...)
	d.mu.Unlock()
	return nil
}

// read returns a block's rows. The caller holds mu.
func (d *day) read(id int64) (*reader, error) {
	var data []byte
	if err := d.db.QueryRow("SELECT data FROM blocks WHERE id = ?", id).Scan(&data); err != nil {
		return nil, fmt.Errorf("read block %d of %s: %w", id, d.path, err)
	}
	raw, err := unpacker.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack block %d of %s: %w", id, d.path, err)
	}
	r, err := newReader(raw)
	if err != nil {
		return nil, fmt.Errorf("read block %d of %s: %w", id, d.path, err)
	}
	return r, nil
}

// compact packs one run of small blocks and reports whether it did.
func (d *day) compact() (bool, error) {
	small, full := d.smallBlocks()
	if len(small) < 2 || !full && len(small) < packFew {
		return false, nil
	}
	into := newBuilder()
	var r row
	for i, b := range small {
		in, err := func() (*reader, error) {
			d.mu.RLock()
			defer d.mu.RUnlock()
			return d.read(b.id)
		}()
		if err != nil {
			return false, err
		}
		for {
			ok, _, err := in.next(&r, nil)
			if err != nil {
				return false, fmt.Errorf("block %d: %w", b.id, err)
			}
			if !ok {
				break
			}
			into.add(&r)
		}
		if into.size() >= packBytes {
			small = small[:i+1]
			break
		}
	}
	if len(small) == 1 {
		d.fill(small[0].id)
		return true, nil
	}
	packed := into.finish(packer)
	packed.full = into.size() >= packBytes
	return true, d.replace(small, packed)
}

// fill marks a block as full.
func (d *day) fill(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.blocks {
		if d.blocks[i].id == id {
			d.blocks[i].full = true
		}
	}
}

// smallBlocks returns the oldest small blocks that fit into one packed block,
// and whether they fill it.
func (d *day) smallBlocks() (small []block, full bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	total := 0
	for _, b := range d.blocks {
		switch {
		case b.n >= packBelow, b.full:
			continue
		case total+b.n > packTo:
			return small, true
		}
		small = append(small, b)
		total += b.n
	}
	return small, false
}

func (d *day) replace(old []block, packed newBlock) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	tx, err := d.db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // without effect after Commit
	if err := insert(tx, &packed); err != nil {
		return err
	}
	gone := make(map[int64]bool, len(old))
	for _, b := range old {
		if _, err := tx.Exec("DELETE FROM blocks WHERE id = ?", b.id); err != nil {
			return err
		}
		gone[b.id] = true
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	d.blocks = append(slices.DeleteFunc(d.blocks, func(b block) bool { return gone[b.id] }), packed.block)
	return nil
}
