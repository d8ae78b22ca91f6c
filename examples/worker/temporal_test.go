//go:build linux

package main

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// The same program, flows and interface on Temporal: what one worker leaves
// another goes on with.
func TestTemporal(t *testing.T) {
	if testing.Short() {
		t.Skip("a Temporal server takes a while to start")
	}
	server := temporalserver.Start(t, temporalserver.Options{Namespace: "lifeboat"})
	dir := t.TempDir()
	simulatedSites(t, dir, 3)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	keys := filepath.Join(dir, "payload.key")
	require.NoError(t, os.WriteFile(keys, []byte("k1:"+base64.StdEncoding.EncodeToString(key)), 0o600))
	worker := func(name string) *process {
		w := start(t, 1, []string{"PGPASSWORD=" + server.DB.Password}, "serve", "-name", name, "-sites", filepath.Join(dir, "sites"),
			"-engine", "temporal", "-temporal", server.Address, "-namespace", "lifeboat", "-codec-key-file", keys,
			"-records", "postgres://postgres@"+server.DB.Host()+"/postgres?sslmode=disable", "-fleet", "4", "-lease", "3s", "-heartbeat", "2s", "-listen", "127.0.0.1:0", "-drain", "20s")
		w.ready(true)
		return w
	}
	a, b := worker("a"), worker("b")
	protect(t, a, "first")
	require.Equal(t, http.StatusOK, a.ask("/runs", `{"flow":"unplanned-failover","all":"berlin","run":"flood"}`, nil))
	a.signal(syscall.SIGKILL)
	a.ended(10 * time.Second)
	for _, run := range []dr.RunID{"flood-berlin-00000", "flood-berlin-00001", "flood-berlin-00002"} {
		done(t, b, run)
	}
	b.signal(syscall.SIGTERM)
	require.Zero(t, b.ended(30*time.Second))
}
