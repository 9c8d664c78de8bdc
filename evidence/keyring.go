package evidence

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate"
	"golang.org/x/mod/sumdb/note"
)

// PublicKey is an ed25519 key under the name of the log that it signs. Its
// text form is a note verifier key, "name+hash+base64", one line that an
// auditor can keep.
type PublicKey struct {
	Name string
	Key  ed25519.PublicKey
}

// ParsePublicKey reads the text form of a key. Anything else is
// REQ_VALIDATION_FAILED.
func ParsePublicKey(s string) (PublicKey, error) {
	s = strings.TrimSpace(s)
	if _, err := note.NewVerifier(s); err != nil {
		return PublicKey{}, headgate.Invalidf("not a public key; expected one line such as name+1a2b3c4d+base64: %w", err)
	}
	parts := strings.SplitN(s, "+", 3) // base64 may itself hold a plus sign
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return PublicKey{}, headgate.Invalidf("not an ed25519 public key")
	}
	return PublicKey{Name: parts[0], Key: ed25519.PublicKey(raw[1:])}, nil
}

// ID names the key in envelopes and file names: the first 32 hex digits of the
// sha256 of its 32 bytes.
func (k PublicKey) ID() string {
	sum := sha256.Sum256(k.Key)
	return hex.EncodeToString(sum[:16])
}

// String returns the text form of the key.
func (k PublicKey) String() string {
	s, err := note.NewEd25519VerifierKey(k.Name, k.Key)
	if err != nil {
		return ""
	}
	return s
}

// Keyring holds the signing keys of one log in a directory: the current
// private key, readable by its owner only, and the public key of every key
// that ever signed. It is safe for concurrent use.
type Keyring struct {
	dir string

	mu      sync.RWMutex
	name    string
	current signingKey
	public  []PublicKey
}

type signingKey struct {
	private ed25519.PrivateKey
	public  PublicKey
}

const currentFile = "current"

// OpenKeyring opens the keys in dir, making the directory and a first key when
// there are none. The name is the log's, for example the server's host name;
// it must hold neither spaces nor "+", and it is used for new keys only.
func OpenKeyring(dir, name string) (*Keyring, error) {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '+' || r > '~' }) {
		return nil, headgate.Invalidf("log name %q: give printable ASCII without spaces and plus signs, such as the host name", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storageError("make the key directory", err)
	}
	k := &Keyring{dir: dir, name: name}
	id, err := os.ReadFile(filepath.Join(dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		_, err := k.Rotate()
		return k, err
	}
	if err != nil {
		return nil, storageError("read the name of the current key", err)
	}
	if err := k.load(strings.TrimSpace(string(id))); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Keyring) load(id string) error {
	path := filepath.Join(k.dir, filepath.Base(id)+".key")
	info, err := os.Stat(path)
	if err != nil {
		return storageError("find the current signing key", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return headgate.Invalidf("the signing key %s is readable by others (%04o); run chmod 600 on it, and rotate it if others may have read it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path) //nolint:gosec // the name is the keyring's own
	if err != nil {
		return storageError("read the current signing key", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return headgate.Invalidf("the signing key %s is damaged; restore it from a backup or remove the file %s to start with a new key", path, currentFile)
	}
	k.current.private = ed25519.NewKeyFromSeed(seed)
	paths, err := filepath.Glob(filepath.Join(k.dir, "*.pub"))
	if err != nil {
		return storageError("list the public keys", err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path) //nolint:gosec // listed from our own directory
		if err != nil {
			return storageError("read a public key", err)
		}
		public, err := ParsePublicKey(string(raw))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		k.public = append(k.public, public)
		if public.Key.Equal(k.current.private.Public()) {
			k.current.public = public
		}
	}
	if k.current.public.Key == nil {
		return headgate.Invalidf("the public key %s.pub of the current signing key is missing from %s; restore it from a backup", id, k.dir)
	}
	return nil
}

// Rotate makes a new key the current one and destroys the old private key; the
// old public key stays, so that what it signed can still be verified. It
// returns the new public key, which auditors must be told.
func (k *Keyring) Rotate() (PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return PublicKey{}, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "cannot make a key: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next := signingKey{private: private, public: PublicKey{Name: k.name, Key: public}}
	id := next.public.ID()
	seed := base64.StdEncoding.EncodeToString(private.Seed()) + "\n"
	for _, f := range []struct{ name, text string }{
		{id + ".key", seed},
		{id + ".pub", next.public.String() + "\n"},
		{currentFile, id + "\n"}, // last: only now is the new key in use
	} {
		if err := writeFile(filepath.Join(k.dir, f.name), []byte(f.text)); err != nil {
			return PublicKey{}, storageError("write the new key", err)
		}
	}
	k.current = next
	k.public = append(k.public, next.public)
	if err := k.destroyOld(); err != nil {
		return next.public, err
	}
	return next.public, nil
}

// DestroyOld destroys every private key but the current one, as [Keyring.Rotate]
// does at its end: one that was interrupted has left another.
func (k *Keyring) DestroyOld() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.destroyOld()
}

func (k *Keyring) destroyOld() error {
	paths, err := filepath.Glob(filepath.Join(k.dir, "*.key"))
	if err != nil {
		return storageError("list the private keys", err)
	}
	for _, path := range paths {
		if filepath.Base(path) == k.current.public.ID()+".key" {
			continue
		}
		if err := os.Remove(path); err != nil {
			return storageError("remove an old private key; remove it by hand", err)
		}
	}
	return nil
}

// Current returns the key that signs now.
func (k *Keyring) Current() PublicKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current.public
}

// Public returns every key that ever signed, ordered by id.
func (k *Keyring) Public() []PublicKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	all := slices.Clone(k.public)
	slices.SortFunc(all, func(a, b PublicKey) int { return strings.Compare(a.ID(), b.ID()) })
	return all
}

func (k *Keyring) signer() signingKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current
}
