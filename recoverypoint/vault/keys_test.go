package vault_test

import (
	"bytes"
	"context"
	"slices"

	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// fastKey wraps without scrypt's effort, for tests that open many vaults. Its
// byte is the key.
type fastKey struct{ b byte }

func (k fastKey) Wrap(_ context.Context, key []byte) ([]byte, error) {
	w := slices.Clone(key)
	for i := range w {
		w[i] ^= k.b + 1
	}
	return append(w, k.b), nil
}

func (k fastKey) Unwrap(_ context.Context, w []byte) ([]byte, error) {
	if len(w) != 33 || w[32] != k.b {
		return nil, vault.ErrWrongKey
	}
	w = bytes.Clone(w[:32])
	for i := range w {
		w[i] ^= k.b + 1
	}
	return w, nil
}
