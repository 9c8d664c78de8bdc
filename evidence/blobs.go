package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/headgate/headgate"
)

// Blobs keeps raw files under the sha256 of their content, in one directory on
// disk. It is safe for concurrent use, also by several processes.
type Blobs struct {
	dir string
}

const tempPrefix = "incoming-"

// OpenBlobs opens the blobs in dir, making the directory when it is not there
// and removing what an interrupted Put left behind.
func OpenBlobs(dir string) (*Blobs, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o700); err != nil {
		return nil, storageError("make the blob directory", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return nil, storageError("list the blob directory", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, storageError("remove an interrupted upload", err)
		}
	}
	return &Blobs{dir: dir}, nil
}

// Put stores what r gives, at most limit bytes, and returns its digest
// ("sha256:<hex>") and size. It is on disk when Put returns. More than limit
// bytes is REQ_BODY_TOO_LARGE, a full disk STORAGE_FULL; nothing is kept then.
func (b *Blobs) Put(r io.Reader, limit int64) (string, int64, error) {
	f, err := os.CreateTemp(b.dir, tempPrefix)
	if err != nil {
		return "", 0, storageError("store a file", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // fails after the rename, as it should
	}()
	sum := sha256.New()
	n, err := copyLimited(f, sum, r, limit)
	if err != nil {
		return "", 0, err
	}
	name := hex.EncodeToString(sum.Sum(nil))
	if err := keep(f, b.path(name), n); err != nil {
		return "", 0, storageError("store a file", err)
	}
	return "sha256:" + name, n, nil
}

// keep moves f to path, durably. What is there already with the right size,
// such as a rule set that every decision names, is not written again.
func keep(f *os.File, path string, size int64) error {
	folder := filepath.Dir(path)
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := os.Rename(f.Name(), path); err != nil {
			return err
		}
	}
	// Also for a file that was there: whoever wrote it may not be done yet.
	if err := syncDir(folder); err != nil {
		return err
	}
	return syncDir(filepath.Dir(folder))
}

func copyLimited(f io.Writer, sum hash.Hash, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, limit+1))
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &pathErr):
		return 0, storageError("store a file", err)
	case err != nil:
		return 0, fmt.Errorf("read the file to store: %w", err)
	case n > limit:
		return 0, headgate.Errorf(headgate.CodeBodyTooLarge, headgate.ClassValidation,
			"the file is larger than the %d bytes that evidence may have; send a summary, or raise the limit", limit)
	}
	return n, nil
}

// Get returns the content of a blob. A digest that is not stored is
// RESOURCE_NOT_FOUND; content that no longer matches its digest is INTERNAL.
func (b *Blobs) Get(digest string) ([]byte, error) {
	name, err := blobName(digest)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(b.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "no evidence file %s is stored here", digest)
	}
	if err != nil {
		return nil, storageError("read an evidence file", err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != name {
		return nil, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent,
			"the evidence file %s was changed or damaged on disk; restore it from a backup or from a bundle", digest)
	}
	return content, nil
}

// Has reports whether a blob is stored.
func (b *Blobs) Has(digest string) bool {
	name, err := blobName(digest)
	if err != nil {
		return false
	}
	_, err = os.Stat(b.path(name))
	return err == nil
}

func (b *Blobs) path(name string) string {
	return filepath.Join(b.dir, "sha256", name[:2], name)
}

// blobName returns the hex part of a digest, refusing anything that could be
// another path.
func blobName(digest string) (string, error) {
	name, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(name); !ok || err != nil || len(raw) != sha256.Size || name != strings.ToLower(name) {
		return "", headgate.Invalidf("%q is not a digest; expected sha256: and 64 lower-case hex digits", digest)
	}
	return name, nil
}

// writeFile writes a small file that only its owner may read, all of it or
// nothing, durably.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix) // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// storageError keeps paths and system errors for the log and tells a person
// what to do.
func storageError(what string, cause error) error {
	if errors.Is(cause, syscall.ENOSPC) || errors.Is(cause, syscall.EDQUOT) {
		return headgate.Errorf(headgate.CodeStorageFull, headgate.ClassTransient,
			"cannot %s: the disk is full; free some space and try again", what).Wrap(cause)
	}
	return headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent,
		"cannot %s; check the data directory's permissions and disk, the server's log has the cause", what).Wrap(cause)
}
