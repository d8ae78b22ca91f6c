package vault_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
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

func TestKeys(t *testing.T) {
	ctx := t.Context()
	b := newMem()
	v, err := vault.Open(ctx, b, vault.Options{Keys: vault.Passphrase([]byte("open sesame"))})
	require.NoError(t, err)
	p := planPoint(rand.New(rand.NewPCG(1, 1)), "1", "", nil, map[dr.DiskID]int64{"secret-disk": 4 * chunk}, 4)
	copy(p.want["secret-disk"], "attack at dawn")
	p.writes = append(p.writes, write{disk: "secret-disk", n: 14, data: p.want["secret-disk"][:14]})
	require.NoError(t, p.apply(ctx, v))

	v, err = vault.Open(ctx, b, vault.Options{Keys: vault.Passphrase([]byte("open sesame"))})
	require.NoError(t, err)
	require.NoError(t, verify(ctx, v, "1", p.want))
	for name, keys := range map[string]vault.KeyProvider{"wrong passphrase": vault.Passphrase([]byte("open sesami")), "no key": nil, "another provider": fastKey{}} {
		_, err = vault.Open(ctx, b, vault.Options{Keys: keys})
		require.ErrorIs(t, err, vault.ErrWrongKey, name)
		require.True(t, dr.IsPermanent(err))
		require.NotContains(t, err.Error(), "sesam")
	}
	for name, data := range b.objects {
		for _, secret := range []string{"attack at dawn", "secret-disk", "sesame"} {
			require.NotContains(t, string(data), secret, name)
		}
	}

	plain := newMem()
	_, err = vault.Open(ctx, plain, vault.Options{})
	require.NoError(t, err)
	_, err = vault.Open(ctx, plain, vault.Options{Keys: vault.Passphrase([]byte("x"))})
	require.ErrorIs(t, err, vault.ErrWrongKey, "who wants secrecy must not get less")
}

// The effort is made once for each vault: what is opened again and again isn't
// slower, nor larger, for being encrypted.
func TestPassphraseDerivesOnce(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	one, other := vault.Passphrase([]byte("open sesame")), vault.Passphrase([]byte("open sesame"))
	key := bytes.Repeat([]byte{7}, 32)
	wrapped, err := one.Wrap(t.Context(), key)
	require.NoError(t, err)
	got, err := one.Unwrap(over, wrapped)
	require.NoError(t, err, "it is known")
	require.Equal(t, key, got)
	_, err = other.Unwrap(over, wrapped)
	require.ErrorIs(t, err, context.Canceled, "it has to be derived")
	for _, ctx := range []context.Context{t.Context(), over} {
		got, err = other.Unwrap(ctx, wrapped)
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
	wrapped[len(wrapped)-1] ^= 1
	for range 2 {
		_, err = one.Unwrap(t.Context(), wrapped)
		require.ErrorIs(t, err, vault.ErrWrongKey)
	}
}
