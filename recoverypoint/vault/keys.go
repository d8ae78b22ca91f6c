package vault

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/crypto/scrypt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrWrongKey says that the vault is encrypted, and not for the given key: a
// wrong passphrase, or none.
var ErrWrongKey = fmt.Errorf("%w: the vault can't be opened with this key", dr.ErrInvalid)

// KeyProvider guards a vault's data key. Implement it on a key service, or use
// [Passphrase]. It must be safe for concurrent use.
type KeyProvider interface {
	// Wrap encrypts a data key of 32 bytes. What it returns is stored in the
	// vault for everybody to see. It is asked once, when a vault is made.
	Wrap(ctx context.Context, key []byte) ([]byte, error)

	// Unwrap is the inverse, asked whenever a vault is opened. ErrWrongKey if
	// it can't: what was wrapped came from another provider.
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// Passphrase is a KeyProvider that derives its key by scrypt
// (https://www.rfc-editor.org/rfc/rfc7914), with N = 2^16, r = 8, p = 1: 64 MiB
// and about a fifth of a second for each guess. Whoever loses it loses the
// vault.
//
// A provider derives the key of each vault once, and of no more than two vaults at a
// time: give one to all vaults that have the passphrase, as those of a fleet's
// machines, which are opened again and again.
func Passphrase(phrase []byte) KeyProvider {
	return &passphrase{phrase: bytes.Clone(phrase), turns: make(chan struct{}, 2), known: map[string][]byte{}}
}

type passphrase struct {
	phrase []byte
	turns  chan struct{} // a derivation takes 64 MiB

	mu    sync.Mutex
	known map[string][]byte // data keys, by how they are wrapped
}

// A wrapped key is version 1, log2 N, r, p (a byte each), 16 bytes of salt, and
// the data key sealed by AES-256-GCM under the derived key with a nonce of
// zeros: a derived key seals one data key only, as the salt is random.
const (
	wrapHeader = 4
	wrapSalt   = 16
	wrappedLen = wrapHeader + wrapSalt + keyLen + tagLen
)

func (p *passphrase) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	if len(key) != keyLen {
		return nil, fmt.Errorf("%w: data key of %d bytes", dr.ErrInvalid, len(key))
	}
	b := make([]byte, wrapHeader+wrapSalt, wrappedLen)
	copy(b, []byte{1, 16, 8, 1})
	rand.Read(b[wrapHeader:])
	aead, err := p.derive(ctx, b)
	if err != nil {
		return nil, err
	}
	wrapped := aead.Seal(b, make([]byte, nonceLen), key, b[:wrapHeader])
	p.learn(wrapped, key)
	return wrapped, nil
}

// learn remembers a key.
func (p *passphrase) learn(wrapped, key []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[string(wrapped)] = bytes.Clone(key)
}

func (p *passphrase) Unwrap(ctx context.Context, b []byte) ([]byte, error) {
	if len(b) != wrappedLen || b[0] != 1 {
		return nil, fmt.Errorf("%w: its key was not wrapped by a passphrase", ErrWrongKey)
	}
	p.mu.Lock()
	known := bytes.Clone(p.known[string(b)])
	p.mu.Unlock()
	if known != nil {
		return known, nil
	}
	// Bounds that keep a forged file from taking all memory or time.
	if b[1] < 14 || b[1] > 20 || b[2] < 1 || b[2] > 16 || b[3] < 1 || b[3] > 4 {
		return nil, fmt.Errorf("%w: scrypt parameters of the wrapped key", dr.ErrCorrupt)
	}
	aead, err := p.derive(ctx, b)
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, make([]byte, nonceLen), b[wrapHeader+wrapSalt:], b[:wrapHeader])
	if err != nil {
		return nil, fmt.Errorf("%w: wrong passphrase", ErrWrongKey)
	}
	p.learn(b, key)
	return key, nil
}

func (p *passphrase) derive(ctx context.Context, b []byte) (cipher.AEAD, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	k, err := scrypt.Key(p.phrase, b[wrapHeader:wrapHeader+wrapSalt], 1<<b[1], int(b[2]), int(b[3]), keyLen)
	if err != nil {
		return nil, err
	}
	return newAEAD(k)
}

const (
	keyLen   = 32 // AES-256
	nonceLen = 12
	tagLen   = 16
)

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonce is the position of what is sealed under a key that belongs to one
// object alone: so none repeats.
func nonce(off uint32) []byte {
	var n [nonceLen]byte
	binary.LittleEndian.PutUint32(n[:], off)
	return n[:]
}
