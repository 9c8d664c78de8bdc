package dataset

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write bid-meridian.pdf from its source text")

// TestPDFBid keeps the PDF bid the rendering of its source text.
// Refresh: go test ./examples/bidding/dataset -update
func TestPDFBid(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("v1.0.0", "bid-meridian.source.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := renderPDF(string(source))
	name := filepath.Join("v1.0.0", "bid-meridian.pdf")
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what its source renders to; run with -update", name)
	}
}

func TestSamplesQuoteTheirDocuments(t *testing.T) {
	t.Parallel()
	d, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join("v1.0.0", "bid-meridian.source.txt"))
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for _, doc := range d.Bids() {
		text[doc.Supplier] = string(doc.Data)
	}
	text["meridian"] = string(source)
	for _, s := range d.Samples {
		for _, e := range s.Evidence {
			if !strings.Contains(text[s.Supplier], e) {
				t.Errorf("%s/%s: evidence %q is not in the bid", s.Supplier, s.Criterion, e)
			}
		}
		if s.Absent == (len(s.Evidence) > 0) {
			t.Errorf("%s/%s: a sample has either evidence or absent: true", s.Supplier, s.Criterion)
		}
	}
}

// renderPDF writes one page per block of lines, in Helvetica.
func renderPDF(source string) []byte {
	pages := strings.Split(strings.TrimSpace(source), "\n\n")
	var kids []string
	objects := []string{"", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"}
	escape := strings.NewReplacer(`\`, `\\`, "(", `\(`, ")", `\)`)
	for _, page := range pages {
		var content strings.Builder
		content.WriteString("BT /F1 11 Tf 60 780 Td 18 TL\n")
		for line := range strings.SplitSeq(page, "\n") {
			fmt.Fprintf(&content, "(%s) Tj T*\n", escape.Replace(line))
		}
		content.WriteString("ET")
		id := len(objects) + 1
		kids = append(kids, fmt.Sprintf("%d 0 R", id))
		objects = append(objects,
			fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>", id+1),
			fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", content.Len(), content.String()))
	}
	objects[0] = "<< /Type /Catalog /Pages 2 0 R >>"
	objects[1] = fmt.Sprintf("<< /Type /Pages /Kids [%s] /Count %d >>", strings.Join(kids, " "), len(pages))
	var out bytes.Buffer
	out.WriteString("%PDF-1.4\n")
	offsets := make([]int, len(objects))
	for i, o := range objects {
		offsets[i] = out.Len()
		fmt.Fprintf(&out, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := out.Len()
	fmt.Fprintf(&out, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, o := range offsets {
		fmt.Fprintf(&out, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&out, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, xref)
	return out.Bytes()
}
