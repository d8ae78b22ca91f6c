package bootproof

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image/png"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/cleanroom"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
)

var _ cleanroom.Scan = Scan(Options{})

func machine(t testing.TB, sector []byte) physical.Machine {
	return physical.Machine{ID: "m", Disks: []physical.Disk{
		{ID: "data", Path: image(t, nil)},
		{ID: "system", Path: image(t, sector), Boot: true},
	}}
}

func TestProofLeavesNothing(t *testing.T) {
	needs(t)
	w := newWorld(t)
	w.keep(machine(t, bootsector.New("well\r\n", bootsector.Count)), "p1")
	img := w.open("m", "p1")
	before := content(t, img, "system")
	folder := t.TempDir()
	var told []Report
	r, err := Prove(within(t, time.Minute), img, Options{Folder: folder, Evidence: []Evidence{says("well")}, Report: func(r Report) { told = append(told, r) }})
	require.NoError(t, err)
	require.True(t, r.Booted)
	require.Equal(t, []Report{r}, told)
	require.Equal(t, dr.PointID("p1"), r.Point)
	require.Contains(t, r.Console, "well")
	require.Positive(t, r.BytesRead)
	require.Positive(t, r.Took)
	_, err = png.Decode(bytes.NewReader(r.Screenshot))
	require.NoError(t, err)
	b, err := json.Marshal(r)
	require.NoError(t, err)
	var again Report
	require.NoError(t, json.Unmarshal(b, &again))
	require.Equal(t, r.Seen, again.Seen)
	t.Logf("%s; %d bytes read, %d of JSON", r, r.BytesRead, len(b))

	require.Empty(t, leftovers(t, folder))
	require.Equal(t, before, content(t, img, "system"), "the guest wrote to its overlay")
	w.whole()
}

func TestWhatDoesNotBootIsToldAtOnce(t *testing.T) {
	needs(t)
	for name, c := range map[string]struct {
		sector []byte
		want   error
	}{
		"zeros": {nil, ErrNoBootDevice},
		"panic": {bootsector.New("Kernel panic - not syncing: no init\r\n", bootsector.Halt), ErrPanicked},
		"loop":  {bootsector.New("again\r\n", bootsector.Reset), ErrResetLoop},
		"off":   {bootsector.New("bye\r\n", bootsector.PowerOff), ErrPoweredOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.keep(machine(t, c.sector), "p1")
			folder := t.TempDir()
			o := Options{Folder: folder, Evidence: []Evidence{says("well")}}
			r, err := Prove(within(t, time.Minute), w.open("m", "p1"), o)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "machine m, point p1")
			require.False(t, r.Booted)
			require.NotEmpty(t, r.Why)
			require.Less(t, r.Took, 20*time.Second)

			clean, findings, err := Scan(o)(t.Context(), w.open("m", "p1"))
			require.NoError(t, err)
			require.False(t, clean)
			require.Len(t, findings, 1)
			require.Empty(t, leftovers(t, folder))
		})
	}
}

// damaged is an image that can't be read behind its first sectors.
type damaged struct{ dr.Image }

func (d damaged) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	if disk == "data" {
		return 0, &dr.Error{Op: "read", Disk: disk, Off: off, Err: dr.ErrCorrupt}
	}
	return d.Image.ReadAt(ctx, disk, p, off)
}

func TestDamageIsToldAsThat(t *testing.T) {
	needs(t)
	w := newWorld(t)
	m := machine(t, nil)
	m.Disks[0].Path, m.Disks[1].Boot = image(t, bootsector.New("well", bootsector.Halt)), false
	w.keep(m, "p1")
	o := Options{Folder: t.TempDir(), Evidence: []Evidence{says("well")}}
	r, err := Prove(within(t, time.Minute), damaged{w.open("m", "p1")}, o)
	require.ErrorIs(t, err, dr.ErrCorrupt)
	require.False(t, r.Booted)
	require.Empty(t, leftovers(t, o.Folder))
}

func TestWhatCannotBeTold(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	img := w.open("m", "p1")
	_, err := Prove(t.Context(), img, Options{})
	require.ErrorIs(t, err, dr.ErrInvalid)
	o := Options{Folder: t.TempDir(), Program: filepath.Join(t.TempDir(), "no-qemu"), Evidence: []Evidence{says("well")}}
	_, _, err = Scan(o)(t.Context(), img)
	require.ErrorContains(t, err, "install it")
	require.Empty(t, leftovers(t, o.Folder))
}

// giveUp ends a proof once a text was seen: a limit of time that depends on no
// host's speed.
type giveUp struct {
	Evidence
	now func()
}

func (g giveUp) Await(ctx context.Context, m *qemu.Machine) (backend.Evidence, error) {
	seen, err := g.Evidence.Await(ctx, m)
	if err == nil {
		time.AfterFunc(100*time.Millisecond, g.now) // after it was counted
	}
	return seen, err
}

func TestSilenceEndsAtTheLimit(t *testing.T) {
	needs(t)
	w := newWorld(t)
	w.keep(machine(t, bootsector.New("ill", bootsector.Halt)), "p1")
	o := Options{Folder: t.TempDir(), Evidence: []Evidence{says("well")}, Limit: time.Second}
	_, err := Prove(t.Context(), w.open("m", "p1"), o)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "not within 1s")
	require.Empty(t, leftovers(t, o.Folder))

	ctx, cancel := context.WithCancelCause(within(t, time.Minute))
	o.Limit = 0
	o.Evidence = []Evidence{giveUp{says("ill"), func() { cancel(errors.New("it is over")) }}, says("well")}
	r, err := Prove(ctx, w.open("m", "p1"), o)
	require.ErrorContains(t, err, "it is over")
	require.Len(t, r.Seen, 1, "what was seen is kept")
	require.NotEmpty(t, r.Screenshot)
	require.Empty(t, leftovers(t, o.Folder))
}

func TestPlanCheck(t *testing.T) {
	needs(t)
	w := newWorld(t)
	w.keep(machine(t, bootsector.New("well\r\n", bootsector.Halt)), "p1")
	check := PlanCheck(func(ctx context.Context, m recoveryplan.ContextMachine) (dr.Image, error) {
		if m.Protection != "web" {
			return nil, errors.New("no such machine")
		}
		return w.store.Open(ctx, "m", "p1")
	}, Options{Folder: t.TempDir(), Evidence: []Evidence{says("well")}})
	v, err := check(within(t, time.Minute), recoveryplan.Context{Machines: []recoveryplan.ContextMachine{{Protection: "web"}}})
	require.NoError(t, err)
	require.Contains(t, v.(Reports).String(), `the console says "well"`)
	_, err = check(t.Context(), recoveryplan.Context{Machines: []recoveryplan.ContextMachine{{Protection: "db"}}})
	require.ErrorContains(t, err, "machine db: no such machine")
	_, err = check(t.Context(), recoveryplan.Context{})
	require.True(t, dr.IsPermanent(err))
}
