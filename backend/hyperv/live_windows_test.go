//go:build live

package hyperv

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/winhost"
)

// TestLive runs the whole suite on a Hyper-V host of yours, on the host itself, as
// an administrator:
//
//	.\testdata\prepare-host.ps1 -Folder D:\lifeboat-live
//	$env:LIFEBOAT_HYPERV_FOLDER = 'D:\lifeboat-live'
//	go test -tags live ./backend/hyperv -run TestLive$ -v -timeout 6h
//
// It makes small machines without a system, whose names begin with
// "lifeboat-live-", in that folder, and removes all of that name on this host,
// before and after.
func TestLive(t *testing.T) {
	folder := os.Getenv("LIFEBOAT_HYPERV_FOLDER")
	if folder == "" {
		t.Skip("LIFEBOAT_HYPERV_FOLDER is not set")
	}
	conn, err := winhost.Dial(t.Context(), winhost.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	name, err := os.Hostname()
	require.NoError(t, err)
	backendtest.Run(t, liveHarness(t, Options{Folder: folder, Nodes: []Node{{Name: name, Conn: conn, Disks: winhost.Disks{}}}}))
}
