package azure_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// captured is a replica that runs, with a capture of it.
func captured(t *testing.T) (*errand, dr.Image) {
	t.Helper()
	e := started(t)
	img, err := e.a.Capture(t.Context(), e.id, "c1", dr.CrashConsistent)
	require.NoError(t, err)
	t.Cleanup(func() { _ = img.Close() })
	return e, img
}

// started is a replica that runs.
func started(t *testing.T) *errand {
	t.Helper()
	e := newErrand(t, t.Name())
	e.start()
	return e
}

// start makes a replica that runs.
func (e *errand) start() {
	e.t.Helper()
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
}

// An address that was granted, though the answer was lost, is revoked.
func TestGrantWithoutAnswerIsRevoked(t *testing.T) {
	e, img := captured(t)
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if strings.HasSuffix(c.Path, "/beginGetAccess") {
			return &azuretest.Fault{Lost: true, Effect: true}
		}
		return nil
	})
	_, err := img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
	require.Error(t, err)
	e.r.cloud.OnCall(nil)
	require.NoError(t, img.Close())
	e.ungranted()
	_, err = img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// What a dead process can still read by is revoked by who lets go of the point,
// of snapshots that stay as bases too; and what it holds doesn't keep the
// machine from being removed.
func TestGrantsOfTheDeadAreRevoked(t *testing.T) {
	e, img := captured(t)
	_, err := img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
	require.NoError(t, err)
	e.life.dead.Store(true)
	e.begin()
	require.NoError(t, e.a.Release(t.Context(), e.id, "c1"))
	e.ungranted()

	img, err = e.a.Capture(t.Context(), e.id, "c2", dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.FileSystemConsistent, img.Point().Consistency)
	_, err = img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
	require.NoError(t, err)
	e.life.dead.Store(true)
	e.begin()
	require.NoError(t, e.a.Remove(t.Context(), e.id))
}

// The same of a restore point that is let go of.
func TestRestorePointThatTheDeadReadIsReleased(t *testing.T) {
	e := started(t)
	img, err := e.a.Capture(t.Context(), e.id, "c2", dr.ApplicationConsistent)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), "data", make([]byte, 512), 0)
	require.NoError(t, err)
	e.life.dead.Store(true)
	e.begin()
	require.NoError(t, e.a.Release(t.Context(), e.id, "c2"))
	for _, id := range e.r.cloud.Resources() {
		require.NotContains(t, id, "/restorepoints/")
	}
}

// Changes that were told are not told again when the address ends meanwhile.
func TestChangesGoOnWithANewAddress(t *testing.T) {
	e := newErrand(t, t.Name())
	e.disks = []dr.Disk{{ID: "os", Size: 12 << 20}}
	var err error
	e.id, err = e.r.add(e.disks)
	require.NoError(t, err)
	require.NoError(t, e.r.power(e.id, dr.On))
	img, err := e.a.Capture(t.Context(), e.id, "c1", dr.CrashConsistent)
	require.NoError(t, err)
	c1 := img.Point()
	require.NoError(t, img.Close())
	n := int64(0)
	for off := int64(0); off < e.disks[0].Size; off += 1024 { // more than one answer holds
		require.NoError(t, e.r.cloud.Write(sources, "vm1", -1, []byte(strings.Repeat("x", 512)), off))
		n++
	}
	img, err = e.a.Capture(t.Context(), e.id, "c2", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	asked := 0
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if strings.Contains(c.Query, "comp=pagelist") {
			if asked++; asked == 2 {
				return &azuretest.Fault{Status: http.StatusForbidden, Code: "AuthenticationFailed"}
			}
		}
		return nil
	})
	at, told := int64(-1), int64(0)
	for x, err := range img.(dr.ChangeTracker).Changes(t.Context(), "os", c1) {
		require.NoError(t, err)
		require.Greater(t, x.Off, at)
		at = x.Off
		told++
	}
	require.Equal(t, n, told)
	require.Equal(t, 4, asked)
}

// A machine is removed though a process died while a restore point of it was
// being made.
func TestRemoveWhileARestorePointIsMade(t *testing.T) {
	e := started(t)
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == http.MethodPut && strings.Contains(c.Path, "/restorePoints/") {
			e.life.dead.Store(true)
		}
		return nil
	})
	_, err := e.a.Capture(t.Context(), e.id, "c1", dr.ApplicationConsistent)
	require.Error(t, err)
	e.begin()
	require.NoError(t, e.a.Remove(t.Context(), e.id))
}
