package evidence

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var errSignature = errors.New("the signature does not match")

// Digest returns "sha256:<hex>" of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// seal signs a statement and returns the envelope's JSON.
func (k signingKey) seal(ctx context.Context, s Statement) ([]byte, error) {
	payload, err := marshal(s)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(k)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "cannot sign: %w", err)
	}
	envelope, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "cannot sign: %w", err)
	}
	return marshal(envelope)
}

// unseal returns the statement in an envelope, its payload's bytes and the ids
// of the keys that claim to have signed it. It verifies nothing.
func unseal(raw []byte) (dsse.Envelope, []byte, Statement, error) {
	var e dsse.Envelope
	var s Statement
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, nil, s, errors.New("it is not a DSSE envelope in JSON")
	}
	if e.PayloadType != PayloadType {
		return e, nil, s, errors.New("its payload type is not " + PayloadType)
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return e, nil, s, errors.New("its payload is not base64")
	}
	if err := json.Unmarshal(payload, &s); err != nil || s.Type != StatementType {
		return e, nil, s, errors.New("its payload is not an in-toto v1 statement")
	}
	return e, payload, s, nil
}

// written reports whether raw is the envelope e exactly as seal writes it. No
// other spelling of the same envelope is a second one, nor holds more than it
// shows: names twice or in other letters, other base64, further signatures.
func written(raw []byte, e dsse.Envelope, payload []byte) bool {
	one := dsse.Envelope{PayloadType: e.PayloadType, Payload: base64.StdEncoding.EncodeToString(payload)}
	for _, s := range e.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return false
		}
		one.Signatures = append(one.Signatures, dsse.Signature{KeyID: s.KeyID, Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	again, err := marshal(one)
	return err == nil && bytes.Equal(again, raw)
}

// Sign implements [dsse.Signer].
func (k signingKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(k.private, data), nil
}

// KeyID implements [dsse.Signer].
func (k signingKey) KeyID() (string, error) { return k.public.ID(), nil }

// dsseVerifier is a public key as a [dsse.Verifier], its id computed once.
type dsseVerifier struct {
	key ed25519.PublicKey
	id  string
}

func (v dsseVerifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.key, data, sig) {
		return errSignature
	}
	return nil
}

func (v dsseVerifier) KeyID() (string, error)   { return v.id, nil }
func (v dsseVerifier) Public() crypto.PublicKey { return v.key }

// Checkpoint is a signed statement of the log's size and root, in the C2SP
// tlog-checkpoint form: a note of three lines.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

func (k signingKey) signCheckpoint(size int64, root tlog.Hash) ([]byte, error) {
	c := Checkpoint{Origin: k.public.Name, Size: size, Root: root}
	signed, err := note.Sign(&note.Note{Text: c.text()}, noteSigner{k})
	if err != nil {
		return nil, headgate.Errorf(headgate.CodeInternal, headgate.ClassPermanent, "cannot sign the checkpoint: %w", err)
	}
	return signed, nil
}

// noteSigner signs notes with the key that signs envelopes. The two cannot be
// mistaken for each other: a DSSE message begins with "DSSEv1 ", and no first
// line of a checkpoint holds a space.
type noteSigner struct{ key signingKey }

func (s noteSigner) Name() string                    { return s.key.public.Name }
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key.private, msg), nil }

func (s noteSigner) KeyHash() uint32 {
	msg := append([]byte(s.key.public.Name+"\n\x01"), s.key.public.Key...)
	sum := sha256.Sum256(msg)
	return binary.BigEndian.Uint32(sum[:])
}

// parseCheckpoint reads a checkpoint's text without its signatures.
func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("it does not have the three lines of a checkpoint")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, errors.New("its second line is not a tree size")
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, errors.New("its third line is not a root hash")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}
