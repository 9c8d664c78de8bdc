package events

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/headgate/headgate/telemetry"
)

// A block is rows that share one string table, compressed as a whole:
//
//	uvarint strings, then per string uvarint length and bytes
//	varint base time in nanoseconds since 1970
//	per row uvarint length and the row
//
// A row begins with what queries select by, so that the rest can be skipped.
// Strings are numbers into the table; 0 is the empty string.

const (
	kindSpan = byte(0)
	kindLog  = byte(1)
)

type attr struct{ key, value string }

// row is one event on its way into or out of a block.
type row struct {
	kind      byte
	time, end int64 // ns since 1970; end is time for a log record
	ids       [idFields]string
	text      [textFields]string
	links     []string
	attrs     []attr
}

// The fields that queries select by.
const (
	idTrace = iota
	idRequest
	idJob
	idCode
	idTenant
	idService
	idVersion
	idFields

	// indexed is how many of them, from the start, are in a block's filter.
	indexed = idTenant + 1
	// eventKey numbers the name of an event in the filter, where it stands beside
	// them. It is an attribute in the row.
	eventKey = idFields
)

// The fields that are only shown.
const (
	textSpan = iota
	textParent
	textEnvironment
	textInstance
	textName
	textStatus
	textMessage
	textFields
)

// builder makes one block.
type builder struct {
	refs     map[string]uint64
	table    []byte
	rows     []byte
	scratch  []byte
	n        int
	base     int64
	min, max int64
	keys     map[uint64]struct{}
}

func newBuilder() *builder {
	return &builder{
		refs: map[string]uint64{"": 0}, keys: make(map[uint64]struct{}),
		min: math.MaxInt64, max: math.MinInt64,
	}
}

func (b *builder) ref(s string) uint64 {
	if n, ok := b.refs[s]; ok {
		return n
	}
	n := uint64(len(b.refs))
	b.refs[s] = n
	b.table = binary.AppendUvarint(b.table, uint64(len(s)))
	b.table = append(b.table, s...)
	return n
}

func (b *builder) add(r *row) {
	if b.n == 0 {
		b.base = r.time
	}
	b.n++
	b.min, b.max = min(b.min, r.time), max(b.max, r.time)
	out := append(b.scratch[:0], r.kind)
	out = binary.AppendVarint(out, r.time-b.base)
	for i, s := range r.ids {
		out = binary.AppendUvarint(out, b.ref(s))
		if i < indexed && s != "" {
			b.keys[key(i, s)] = struct{}{}
		}
	}
	out = binary.AppendVarint(out, r.end-r.time)
	for _, s := range r.text {
		out = binary.AppendUvarint(out, b.ref(s))
	}
	out = binary.AppendUvarint(out, uint64(len(r.links)))
	for _, s := range r.links {
		out = binary.AppendUvarint(out, b.ref(s))
	}
	out = binary.AppendUvarint(out, uint64(len(r.attrs)))
	for _, a := range r.attrs {
		out = binary.AppendUvarint(out, b.ref(a.key))
		out = binary.AppendUvarint(out, b.ref(a.value))
		if a.key == telemetry.AttrEvent {
			b.keys[key(eventKey, a.value)] = struct{}{}
		}
	}
	b.rows = binary.AppendUvarint(b.rows, uint64(len(out)))
	b.rows = append(b.rows, out...)
	b.scratch = out
}

// size is about how many bytes raw has.
func (b *builder) size() int { return len(b.table) + len(b.rows) }

// raw returns the block before compression.
func (b *builder) raw() []byte {
	out := make([]byte, 0, len(b.table)+len(b.rows)+3*binary.MaxVarintLen64)
	out = binary.AppendUvarint(out, uint64(len(b.refs)-1))
	out = append(out, b.table...)
	out = binary.AppendVarint(out, b.base)
	return append(out, b.rows...)
}

var errDamaged = errors.New("the block is damaged")

// reader walks a block's rows.
type reader struct {
	strings []string
	base    int64
	rest    []byte
}

func newReader(raw []byte) (*reader, error) {
	d := decoder{buf: raw}
	n := d.uvarint()
	if n > uint64(len(raw)) {
		return nil, errDamaged
	}
	r := &reader{strings: make([]string, 1, n+1)}
	all := string(raw) // one copy that every string points into
	for range n {
		l := d.uvarint()
		at := len(raw) - len(d.buf)
		if d.failed || l > uint64(len(d.buf)) {
			return nil, errDamaged
		}
		r.strings = append(r.strings, all[at:at+int(l)])
		d.buf = d.buf[l:]
	}
	r.base = d.varint()
	r.rest = d.buf
	if d.failed {
		return nil, errDamaged
	}
	return r, nil
}

// next reads the row into into when want accepts its time and identifiers. It
// returns false at the end.
func (r *reader) next(into *row, want func(time int64, ids *[idFields]string) bool) (ok, wanted bool, err error) {
	if len(r.rest) == 0 {
		return false, false, nil
	}
	d := decoder{buf: r.rest}
	l := d.uvarint()
	if d.failed || l == 0 || l > uint64(len(d.buf)) {
		return false, false, errDamaged
	}
	r.rest = d.buf[l:]
	into.kind = d.buf[0]
	d = decoder{buf: d.buf[1:l], strings: r.strings}
	into.time = r.base + d.varint()
	for i := range into.ids {
		into.ids[i] = d.ref()
	}
	if d.failed {
		return false, false, errDamaged
	}
	if want != nil && !want(into.time, &into.ids) {
		return true, false, nil
	}
	into.end = into.time + d.varint()
	for i := range into.text {
		into.text[i] = d.ref()
	}
	into.links = into.links[:0]
	for range d.count() {
		into.links = append(into.links, d.ref())
	}
	into.attrs = into.attrs[:0]
	for range d.count() {
		into.attrs = append(into.attrs, attr{d.ref(), d.ref()})
	}
	if d.failed {
		return false, false, errDamaged
	}
	return true, true, nil
}

// decoder reads numbers and remembers the first failure.
type decoder struct {
	buf     []byte
	strings []string
	failed  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.failed, d.buf = true, nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.failed, d.buf = true, nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) ref() string {
	n := d.uvarint()
	if n >= uint64(len(d.strings)) {
		d.failed = true
		return ""
	}
	return d.strings[n]
}

// count reads a number of things of at least a byte each.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.failed = true
		return 0
	}
	return n
}

// key hashes an indexed field's value.
func key(field int, value string) uint64 {
	return xxhash.Sum64String(value)*31 + uint64(field)
}

// A filter is a Bloom filter of 16 bits per key and 8 probes: it lets through
// one block in 1700 that does not hold the key.
type filter []byte

const (
	filterBits   = 16
	filterProbes = 8
)

func newFilter(keys map[uint64]struct{}) filter {
	f := make(filter, max(8, len(keys)*filterBits/8))
	for k := range keys {
		f.probe(k, func(byteAt uint64, bit byte) bool {
			f[byteAt] |= bit
			return true
		})
	}
	return f
}

func (f filter) has(k uint64) bool {
	return f.probe(k, func(byteAt uint64, bit byte) bool { return f[byteAt]&bit != 0 })
}

func (f filter) probe(k uint64, visit func(byteAt uint64, bit byte) bool) bool {
	if len(f) == 0 {
		return true
	}
	n := uint64(len(f)) * 8
	step := k>>33 | 1
	for range filterProbes {
		bit := k % n
		if !visit(bit/8, 1<<(bit%8)) {
			return false
		}
		k += step
		k ^= k >> 29
	}
	return true
}

// maxRaw bounds a block's size when it is decompressed.
const maxRaw = 256 << 20

var (
	encoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2)))
	// packer is for blocks that are rewritten once and then kept.
	packer   = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1)))
	unpacker = must(zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecoderConcurrency(2)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return v
}
