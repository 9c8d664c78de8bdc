package bidding

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode"
)

// The routes by which passages are found. The fallback needs no index
// statistics and answers when the primary one is switched off.
const (
	RoutePrimary  = "primary"
	RouteFallback = "fallback"
)

// ModeFallback as a mode hint switches the primary route off.
const ModeFallback = "fallback"

// pageWeight is how much the page around a passage counts beside the passage
// itself, by mode hint.
var pageWeight = map[string]float64{"": .2, "local": 0, "hybrid": .2, "mix": .2, "global": .6, ModeFallback: 0}

// ValidMode reports whether hint is a known mode hint.
func ValidMode(hint string) bool { _, ok := pageWeight[hint]; return ok }

// Index finds passages by BM25 (Robertson and Zaragoza, "The Probabilistic
// Relevance Framework", 2009) over words and, for Chinese, Japanese and Korean
// text, character bigrams. It is immutable.
type Index struct {
	params   Retrieval
	passages bm25
	pages    bm25
	list     []Passage
	pageOf   []int
	chars    int
}

// NewIndex indexes the documents' passages and pages.
func NewIndex(docs []Document, params Retrieval) *Index {
	x := &Index{params: params}
	var passageTexts, pageTexts []string
	for _, d := range docs {
		for _, p := range d.Pages {
			x.chars += len([]rune(p.Text))
			for _, ps := range passages(d, p) {
				x.list = append(x.list, ps)
				x.pageOf = append(x.pageOf, len(pageTexts))
				passageTexts = append(passageTexts, ps.Text)
			}
			pageTexts = append(pageTexts, p.Text)
		}
	}
	x.passages, x.pages = newBM25(passageTexts, params), newBM25(pageTexts, params)
	return x
}

// Chars is how many characters the index holds: what a task is charged for.
func (x *Index) Chars() int { return x.chars }

// Search returns at most k passages that match the query, best first, and the
// route taken. Equal scores keep document order.
func (x *Index) Search(query, mode string, k int) ([]Passage, string) {
	terms := Tokens(query)
	scores, route := make([]float64, len(x.list)), RoutePrimary
	if mode == ModeFallback {
		route = RouteFallback
		for i := range x.list {
			scores[i] = x.passages.matches(i, terms)
		}
	} else {
		w := pageWeight[mode]
		for i := range x.list {
			if s := x.passages.score(i, terms); s > 0 {
				scores[i] = s + w*x.pages.score(x.pageOf[i], terms)
			}
		}
	}
	order := make([]int, 0, len(scores))
	for i, s := range scores {
		if s > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	out := make([]Passage, 0, k)
	for _, i := range order[:min(k, len(order))] {
		out = append(out, x.list[i])
	}
	return out, route
}

type bm25 struct {
	params Retrieval
	freq   []map[string]float64
	length []float64
	docs   map[string]float64
	mean   float64
}

func newBM25(texts []string, params Retrieval) bm25 {
	m := bm25{params: params, docs: map[string]float64{}}
	for _, t := range texts {
		freq := map[string]float64{}
		all := Tokens(t)
		for _, tok := range all {
			freq[tok]++
		}
		for tok := range freq {
			m.docs[tok]++
		}
		m.freq = append(m.freq, freq)
		m.length = append(m.length, float64(len(all)))
		m.mean += float64(len(all)) / float64(len(texts))
	}
	return m
}

func (m bm25) score(i int, terms []string) (sum float64) {
	n := float64(len(m.freq))
	for _, t := range terms {
		f := m.freq[i][t]
		if f == 0 {
			continue
		}
		df := m.docs[t]
		idf := math.Log(1 + (n-df+.5)/(df+.5))
		sum += idf * f * (m.params.K1 + 1) / (f + m.params.K1*(1-m.params.B+m.params.B*m.length[i]/m.mean))
	}
	return sum
}

// matches is the share of distinct query terms that a text has.
func (m bm25) matches(i int, terms []string) float64 {
	found := 0.0
	for _, t := range terms {
		if m.freq[i][t] > 0 {
			found++
		}
	}
	return found / float64(max(len(terms), 1))
}

// Tokens are lower-case words and numbers, and bigrams of CJK characters (a
// lone one stands for itself).
func Tokens(text string) []string {
	var out []string
	var word, han []rune
	flushWord := func() {
		if len(word) > 0 {
			out = append(out, stem(string(word)))
		}
		word = word[:0]
	}
	flushHan := func() {
		if len(han) == 1 {
			out = append(out, string(han))
		}
		for i := 0; i+1 < len(han); i++ {
			out = append(out, string(han[i:i+2]))
		}
		han = han[:0]
	}
	for _, r := range strings.ToLower(text) {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul):
			flushWord()
			han = append(han, r)
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			flushHan()
			word = append(word, r)
		default:
			flushWord()
			flushHan()
		}
	}
	flushWord()
	flushHan()
	return out
}

// stem folds the English plural, enough for a fixed vocabulary of criteria.
func stem(w string) string {
	if len(w) > 3 && strings.HasSuffix(w, "s") && !strings.HasSuffix(w, "ss") {
		return w[:len(w)-1]
	}
	return w
}
