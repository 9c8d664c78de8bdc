package events

import "testing"

func FuzzReader(f *testing.F) {
	b := newBuilder()
	b.add(&row{time: 5, end: 9, ids: [idFields]string{"t", "r"}, links: []string{"l"}, attrs: []attr{{"k", "v"}}})
	f.Add(b.raw())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := newReader(raw)
		if err != nil {
			return
		}
		var into row
		for ok := true; ok && err == nil; {
			ok, _, err = r.next(&into, nil)
		}
	})
}

func TestFilterRarelyLies(t *testing.T) {
	t.Parallel()
	keys := make(map[uint64]struct{})
	for i := range 5000 {
		keys[key(idTrace, string(rune(i)))] = struct{}{}
	}
	f := newFilter(keys)
	for k := range keys {
		if !f.has(k) {
			t.Fatal("a key is missing")
		}
	}
	wrong := 0
	for i := range 100_000 {
		if f.has(key(idJob, string(rune(i)))) {
			wrong++
		}
	}
	if wrong > 200 {
		t.Errorf("%d of 100000 keys are found by mistake", wrong)
	}
}
