package evidence

import (
	"archive/zip"
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// maxMembers is what a ZIP file without extensions can hold.
const maxMembers = 65535

// writeArchive writes members as a ZIP file whose bytes follow from the
// members alone: sorted by name, stored, without times, extra fields, data
// descriptors or comments.
func writeArchive(w io.Writer, members map[string][]byte) error {
	if len(members) > maxMembers {
		return headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassPermanent,
			"the release has %d pieces of evidence, a bundle holds at most %d; fetch them one by one", len(members), maxMembers)
	}
	z := zip.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		content := members[name]
		f, err := z.CreateRaw(&zip.FileHeader{
			Name:               name,
			Method:             zip.Store,
			CreatorVersion:     20,
			ReaderVersion:      20,
			ModifiedDate:       0x21, //nolint:staticcheck // 1980-01-01; CreateRaw does not look at Modified
			CRC32:              crc32.ChecksumIEEE(content),
			CompressedSize64:   uint64(len(content)),
			UncompressedSize64: uint64(len(content)),
		})
		if err != nil {
			return err
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
	}
	return z.Close()
}

// errNotBundle says in one sentence why a file cannot be a bundle.
type errNotBundle struct {
	member string
	reason string
}

func (e *errNotBundle) Error() string { return e.reason }

// readArchive returns the members of a bundle. Nothing is unpacked to disk,
// nothing is decompressed, and no more than size bytes are kept, whatever the
// archive claims.
func readArchive(r io.ReaderAt, size int64) (map[string][]byte, error) {
	if size > maxBundle+maxBundle/4 {
		return nil, &errNotBundle{reason: "it is larger than any bundle"}
	}
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, &errNotBundle{reason: "it is not a complete ZIP file; it may have been cut short or damaged on its way"}
	}
	members := make(map[string][]byte, len(z.File))
	left := size
	for _, f := range z.File {
		left -= int64(min(f.CompressedSize64, maxBundle*2)) //nolint:gosec // bounded by min
		switch {
		case !fs.ValidPath(f.Name) || strings.Contains(f.Name, `\`) || strings.HasSuffix(f.Name, "/"):
			return nil, &errNotBundle{f.Name, "its name leads outside the bundle or is not a file's; nothing was unpacked"}
		case members[f.Name] != nil:
			return nil, &errNotBundle{f.Name, "it occurs twice; readers could disagree about which one counts"}
		case f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64:
			return nil, &errNotBundle{f.Name, "it is compressed; members of a bundle are stored as they are"}
		case left < 0:
			return nil, &errNotBundle{f.Name, "the members claim more bytes than the file has"}
		}
		raw, err := f.OpenRaw()
		if err != nil {
			return nil, &errNotBundle{f.Name, "its local header is damaged"}
		}
		content, err := io.ReadAll(raw)
		if err != nil || uint64(len(content)) != f.CompressedSize64 {
			return nil, &errNotBundle{f.Name, "it is cut short"}
		}
		members[f.Name] = content
	}
	return members, nil
}

// equalBytes reports whether r holds exactly what write writes.
func equalBytes(r io.ReaderAt, size int64, write func(io.Writer) error) (int64, bool, error) {
	c := &comparer{r: r, size: size}
	if err := write(c); err != nil {
		return 0, false, err
	}
	if c.err != nil {
		return 0, false, c.err
	}
	if !c.differs && c.offset != size {
		return c.offset, false, nil
	}
	return c.offset, !c.differs, nil
}

type comparer struct {
	r       io.ReaderAt
	size    int64
	offset  int64 // how far the two agree
	differs bool
	err     error
	buf     []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	if c.differs || c.err != nil {
		return len(p), nil
	}
	if c.offset+int64(len(p)) > c.size {
		c.differs = true
		return len(p), nil
	}
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	got := c.buf[:len(p)]
	if _, err := c.r.ReadAt(got, c.offset); err != nil && err != io.EOF {
		c.err = err
		return len(p), nil
	}
	if !bytes.Equal(got, p) {
		c.differs = true
		for i := range p {
			if got[i] != p[i] {
				c.offset += int64(i)
				break
			}
		}
		return len(p), nil
	}
	c.offset += int64(len(p))
	return len(p), nil
}
