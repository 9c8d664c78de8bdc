package evidence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/headgate/headgate"
)

// Blobs keeps raw files under the sha256 of their content. It is safe for
// concurrent use, also by several processes. [Folder] keeps them on disk and
// package store/s3 in a bucket; evidence/blobtest says what both must do.
type Blobs interface {
	BlobReader
	// Put stores content and returns its digest ("sha256:<hex>"). The content is
	// durable when Put returns without an error; after an error it may be
	// stored or not, but never in part. Storing what is there changes nothing.
	Put(ctx context.Context, content []byte) (digest string, err error)
	// Check reads every blob and returns how many there are and which are damaged.
	Check(ctx context.Context) (n int, found []Damage, err error)
}

// BlobReader gives raw files by their digest.
type BlobReader interface {
	// Get returns the content of a blob. A digest that is not stored is
	// RESOURCE_NOT_FOUND; content that no longer matches its digest is INTERNAL.
	Get(ctx context.Context, digest string) ([]byte, error)
}

// Folder keeps blobs in one directory on disk.
type Folder struct {
	dir string
}

const tempPrefix = "incoming-"

// OpenFolder opens the blobs in dir, making the directory when it is not there
// and removing what an interrupted Put left behind.
func OpenFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o700); err != nil {
		return nil, storageError("make the blob directory", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "sha256", "*", tempPrefix+"*"))
	if err != nil {
		return nil, storageError("list the blob directory", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, storageError("remove an interrupted upload", err)
		}
	}
	return &Folder{dir: dir}, nil
}

// Put implements [Blobs].
func (f *Folder) Put(ctx context.Context, content []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient, "the request ended before its file was stored: %w", err)
	}
	d := Digest(content)
	name, err := BlobName(d)
	if err != nil {
		return "", err
	}
	if err := f.keep(filepath.Join(f.dir, name), content); err != nil {
		return "", storageError("store a file", err)
	}
	return d, nil
}

// keep writes content to path, durably. What is there already, such as a rule
// set that every decision names, is not written again; what was damaged since
// is.
func (f *Folder) keep(path string, content []byte) error {
	folder := filepath.Dir(path)
	if there, err := os.ReadFile(path); err != nil || !bytes.Equal(there, content) { //nolint:gosec // a name that BlobName made
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := writeFile(path, content); err != nil {
			return err
		}
	} else if err := syncDir(folder); err != nil { // whoever wrote it may not be done yet
		return err
	}
	return syncDir(filepath.Dir(folder))
}

// Get implements [BlobReader].
func (f *Folder) Get(_ context.Context, digest string) ([]byte, error) {
	name, err := BlobName(digest)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, BlobMissing(digest)
	}
	if err != nil {
		return nil, storageError("read an evidence file", err)
	}
	if err := CheckBlob(digest, content); err != nil {
		return nil, err
	}
	return content, nil
}

// Check implements [Blobs].
func (f *Folder) Check(ctx context.Context) (n int, found []Damage, err error) {
	err = filepath.WalkDir(filepath.Join(f.dir, "sha256"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		n++
		if _, err := f.Get(ctx, "sha256:"+d.Name()); err != nil {
			found = append(found, Damage{"file " + path, err.Error()})
		}
		return nil
	})
	return n, found, err
}

// BlobName returns where a store keeps a blob, "sha256/ab/ab…", the same in a
// folder and in a bucket, so that one can be copied to the other. It refuses
// whatever is not a digest, which could be another path.
func BlobName(digest string) (string, error) {
	name, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(name); !ok || err != nil || len(raw) != sha256.Size || name != strings.ToLower(name) {
		return "", headgate.Invalidf("%q is not a digest; expected sha256: and 64 lower-case hex digits", digest)
	}
	return "sha256/" + name[:2] + "/" + name, nil
}

// BlobMissing is what a store answers when it has no such blob.
func BlobMissing(digest string) error {
	return headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "no evidence file %s is stored here", digest)
}

// CheckBlob is nil when content is what the digest names, and INTERNAL when it
// was changed since it was stored.
func CheckBlob(want string, content []byte) error {
	if Digest(content) == want {
		return nil
	}
	return headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent,
		"the evidence file %s was changed or damaged where it is stored; restore it from a backup or from a bundle", want)
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
