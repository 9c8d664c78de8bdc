package bidding

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ledongthuc/pdf"

	"github.com/headgate/headgate"
)

// The codes under which a document ends in the dead-letter queue.
const (
	CodeParseUnsupported = "PARSE_UNSUPPORTED_TYPE"
	CodeParseEncoding    = "PARSE_INVALID_ENCODING"
	CodeParseEmpty       = "PARSE_NO_TEXT"
	CodeParseBroken      = "PARSE_BROKEN_DOCUMENT"
	CodeParseTimeout     = "PARSE_TIMEOUT"
)

const (
	// maxPages bounds a document; tender files of this trade stay below.
	maxPages = 1000
	// pageRunes is where text without page breaks is cut, at a paragraph.
	pageRunes = 900
	// parseLimit bounds the PDF library, which reads foreign input.
	parseLimit = 20 * time.Second
)

// Document is a parsed file of one supplier.
type Document struct {
	ID      string
	DocType string
	Pages   []Page
}

// Page is one page's text. Numbers start at 1.
type Page struct {
	Number int    `json:"page"`
	Text   string `json:"text"`
}

// Parse turns a Markdown, text or PDF file into pages by its name's
// extension. Text without form feeds is cut into pages of about 900
// characters. Every error is a permanent [headgate.Error] with one of the
// PARSE codes; a hostile file never panics.
func Parse(ctx context.Context, name string, data []byte) ([]Page, error) {
	var pages []string
	switch strings.ToLower(path.Ext(name)) {
	case ".md", ".markdown", ".txt", ".text":
		if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
			return nil, parseErr(CodeParseEncoding, "the file is not UTF-8 text; save it as UTF-8 and upload it again")
		}
		pages = paginate(strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n"))
	case ".pdf":
		var err error
		if pages, err = parsePDF(ctx, data); err != nil {
			return nil, err
		}
	default:
		return nil, parseErr(CodeParseUnsupported, "only .md, .txt and .pdf files can be read; convert the file and upload it again")
	}
	out := make([]Page, 0, len(pages))
	text := false
	for i, p := range pages {
		text = text || strings.TrimSpace(p) != ""
		out = append(out, Page{Number: i + 1, Text: p})
	}
	if !text {
		return nil, parseErr(CodeParseEmpty, "the file has no text; a scanned document needs text recognition first")
	}
	if len(out) > maxPages {
		return nil, parseErr(CodeParseBroken, fmt.Sprintf("the file has more than %d pages; split it", maxPages))
	}
	return out, nil
}

func parseErr(code, message string) *headgate.Error {
	return headgate.Errorf(code, headgate.ClassPermanent, "%s", message)
}

// paginate cuts at form feeds, and long stretches at the end of a paragraph.
func paginate(text string) []string {
	var pages []string
	for part := range strings.SplitSeq(text, "\f") {
		var page strings.Builder
		runes := 0
		for line := range strings.SplitAfterSeq(part, "\n") {
			if runes >= pageRunes && strings.TrimSpace(line) == "" {
				pages = append(pages, page.String())
				page.Reset()
				runes = 0
				continue
			}
			page.WriteString(line)
			runes += utf8.RuneCountInString(line)
		}
		if page.Len() > 0 {
			pages = append(pages, page.String())
		}
	}
	return pages
}

// parsePDF runs the library apart, because it can loop for ever on a crafted
// file: then its goroutine is given up, and the job goes on without it.
func parsePDF(ctx context.Context, data []byte) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, parseLimit)
	defer cancel()
	type result struct {
		pages []string
		err   error
	}
	done := make(chan result, 1)
	go func() {
		pages, err := readPDF(ctx, data)
		done <- result{pages, err}
	}()
	select {
	case r := <-done:
		return r.pages, r.err
	case <-ctx.Done():
		return nil, parseErr(CodeParseTimeout, "the PDF took too long to read; print it to a new PDF and upload that").Wrap(ctx.Err())
	}
}

func readPDF(ctx context.Context, data []byte) (pages []string, err error) {
	broken := parseErr(CodeParseBroken, "the PDF cannot be read; print it to a new PDF and upload that")
	defer func() {
		if r := recover(); r != nil {
			pages, err = nil, broken.Wrap(fmt.Errorf("pdf library: %v", r))
		}
	}()
	doc, err := pdf.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, broken.Wrap(err)
	}
	n := doc.NumPage()
	if n > maxPages {
		return nil, broken.Wrap(errors.New("too many pages"))
	}
	for i := 1; i <= n && ctx.Err() == nil; i++ {
		pages = append(pages, strings.ToValidUTF8(pageText(doc.Page(i)), "\uFFFD"))
	}
	return pages, nil
}

// pageText breaks the line where the writing moves up or down.
func pageText(p pdf.Page) string {
	var b strings.Builder
	var y, right float64
	for i, glyph := range p.Content().Text {
		switch {
		case i == 0:
		case math.Abs(glyph.Y-y) > 1:
			b.WriteByte('\n')
		case glyph.W > 0 && glyph.X-right > .25*glyph.FontSize:
			b.WriteByte(' ')
		}
		b.WriteString(glyph.S)
		y, right = glyph.Y, glyph.X+glyph.W
	}
	return b.String()
}

// Passage is the unit of retrieval and of citation: one clause.
type Passage struct {
	DocumentID string
	DocType    string
	Page       int
	// start and end are byte offsets in the page's text.
	start, end int
	Text       string
	page       string
}

// Citation points at the place that a statement rests on.
type Citation struct {
	DocumentID string `json:"document_id"`
	Page       int    `json:"page"`
	Span       Span   `json:"span"`
	// Quote is the text at Span; a citation whose place holds other text does
	// not resolve.
	Quote string `json:"quote"`
}

// Span counts Unicode code points from the start of the page; End is
// exclusive.
type Span struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// Citation returns the passage's place.
func (p Passage) Citation() Citation {
	start := utf8.RuneCountInString(p.page[:p.start])
	return Citation{
		DocumentID: p.DocumentID, Page: p.Page, Quote: p.Text,
		Span: Span{Start: start, End: start + utf8.RuneCountInString(p.Text)},
	}
}

// Resolves reports whether page holds the quote at the citation's place.
func (c Citation) Resolves(page Page) bool {
	text := []rune(page.Text)
	s := c.Span
	return page.Number == c.Page && c.Quote != "" && s.Start >= 0 && s.Start <= s.End && s.End <= len(text) &&
		string(text[s.Start:s.End]) == c.Quote
}

var clauseStart = regexp.MustCompile(`^\s*(#{1,6}\s|[-*•|]|\d{1,3}([.、)]\d{1,3})*[.、)]?\s|第[一二三四五六七八九十]+[章节条部]|[一二三四五六七八九十]{1,3}、|（[一二三四五六七八九十]+）)`)

// passages splits a page into clauses: at blank lines, headings, list items
// and numbered clauses.
func passages(d Document, p Page) []Passage {
	var out []Passage
	start, end := -1, -1
	flush := func() {
		if start >= 0 {
			out = append(out, Passage{DocumentID: d.ID, DocType: d.DocType, Page: p.Number,
				start: start, end: end, Text: p.Text[start:end], page: p.Text})
		}
		start = -1
	}
	offset := 0
	for line := range strings.SplitAfterSeq(p.Text, "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || clauseStart.MatchString(line) {
			flush()
		}
		if trimmed != "" {
			if start < 0 {
				start = offset + strings.Index(line, trimmed)
			}
			end = offset + len(strings.TrimRightFunc(line, unicode.IsSpace))
		}
		offset += len(line)
	}
	flush()
	return out
}
