//go:build !windows

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Root leaves nothing where another user's service couldn't read it.
func TestRootLeavesNothingInOthersFolders(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		require.NoError(t, ownedBy(filepath.Join(dir, "new"), 0))
		require.NoError(t, os.Chown(dir, 12345, 12345))
		require.ErrorContains(t, token(t.Context(), []string{"--dir", filepath.Join(dir, "no", "authority"), "--name", "x", "--role", "client"}, os.Stderr), "no authority")
		require.ErrorContains(t, enroll(t.Context(), []string{"--dir", filepath.Join(dir, "id"), "--url", "https://127.0.0.1:1", "--token", "x", "--pin", "x"}, os.Stderr), "user 12345")
	}
	require.ErrorContains(t, ownedBy(filepath.Join(dir, "not", "yet"), 0), "setpriv")
	require.NoError(t, ownedBy(dir, 12345))
	require.NoDirExists(t, filepath.Join(dir, "id"))
}

// A folder that is there, but no authority, doesn't become one.
func TestAMistypedFolderIsNoAuthority(t *testing.T) {
	dir := t.TempDir()
	for name, f := range map[string]func() error{
		"token": func() error {
			return token(t.Context(), []string{"--dir", dir, "--name", "x", "--role", "client"}, os.Stderr)
		},
		"revoke": func() error { return revoke(t.Context(), []string{"--dir", dir, "--what", "x"}, os.Stderr) },
		"rotate": func() error { return rotate(t.Context(), []string{"--dir", dir}, os.Stderr) },
	} {
		require.ErrorIs(t, f(), os.ErrNotExist, name)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
