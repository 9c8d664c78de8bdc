package evidence

import (
	"context"
	"io"

	"github.com/headgate/headgate"
)

// BlobReader gives raw files by their digest; [Blobs] is one.
type BlobReader interface {
	// Get returns RESOURCE_NOT_FOUND when there is no such blob.
	Get(digest string) ([]byte, error)
}

// BundleOptions is what a bundle is made from besides the release.
type BundleOptions struct {
	Log   *Log
	Blobs BlobReader
	// EarlierCheckpoint is one that the recipient already holds; the bundle
	// then proves that the log only grew since. Empty for none.
	EarlierCheckpoint []byte
}

// WriteBundle writes all that the log holds about a release as one ZIP file:
// statements with proofs of inclusion, the blobs that they name, a fresh
// checkpoint, the public keys and a signed manifest. The same log gives the
// same bytes. A blob that a statement names and that is not stored is
// RESOURCE_NOT_FOUND: a bundle is complete or not written.
func WriteBundle(ctx context.Context, w io.Writer, r headgate.Release, o BundleOptions) error {
	return nil
}
