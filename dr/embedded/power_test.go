package embedded

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var cuts = flag.Int("cuts", 150, "how often TestPowerLoss cuts the power")

// sector is what a disk writes whole or not at all.
const sector = 512

// disk is what the files hold at one moment.
type disk struct{ db, wal []byte }

func look(path string) (d disk, err error) {
	if d.db, err = os.ReadFile(path); err != nil {
		return d, err
	}
	d.wal, err = os.ReadFile(path + "-wal")
	return d, err
}

// moment is a write of the journal: the disk before it, the disk when it has
// been synced, and how many events were acknowledged before and with it.
type moment struct {
	before, after disk
	acked, added  int
}

// TestPowerLoss takes a history's every write of the journal and cuts the
// power in it: of what the write changed, random sectors reach the disk, and
// some of them as garbage. Each time the journal opens, holds every event that
// was acknowledged before, and of those in the write all or none; and the run
// goes on to its end.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	moments := recordMoments(t)
	synced := 0
	for i := range *cuts {
		m := moments[rng.IntN(len(moments))]
		d := disk{db: m.before.db, wal: tearLog(rng, m.before.wal, m.after.wal)}
		if i%3 == 0 {
			// The log was synced; the file was being brought up to date from
			// it, which writes whole pages that are still in the log.
			d = disk{db: tear(rng, m.before.db, m.after.db), wal: m.after.wal}
		}
		got := reopen(t, d)
		switch {
		case got == m.acked+m.added:
			synced++
		case i%3 == 0:
			require.Fail(t, "a synced write is lost", "%d events of %d+%d", got, m.acked, m.added)
		default:
			require.Equal(t, m.acked, got, "events; %d were being written", m.added)
		}
	}
	t.Logf("%d cuts in %d writes; in %d the write was whole", *cuts, len(moments), synced)
	require.Less(t, synced, *cuts, "no cut did any harm: they were none")
}

// recordMoments runs a history long enough for the log to be moved to the file
// several times.
func recordMoments(t *testing.T) []moment {
	path := journal(t)
	var moments []moment
	var now moment
	total := 0
	e := open(t, path, Options{Intercept: func(w Write) (err error) {
		if !w.After {
			now = moment{acked: total, added: len(w.What)}
			now.before, err = look(path)
			return err
		}
		total += now.added
		now.after, err = look(path)
		moments = append(moments, now)
		return err
	}})
	require.NoError(t, e.w.exec(`PRAGMA wal_autocheckpoint = 60`))
	serve(t, e, dr.Actions{"do": nothing})
	for i := range 6 {
		id := dr.RunID(fmt.Sprint("r", i))
		require.NoError(t, e.Start(t.Context(), id, chain(12)))
		wait(t, e, id)
	}
	require.Equal(t, 6*(12*2+2), total, "events: claimed, begun and done of each step, released")
	return moments
}

// logHeader is how long the header of SQLite's log is, in bytes.
const logHeader = 32

// tearLog tears a log. One that begins anew has its header synced before
// anything else is written: without that, what is left of the former log would
// be taken for the newest.
func tearLog(rng *rand.Rand, was, next []byte) []byte {
	n := min(logHeader, len(was), len(next))
	if string(was[:n]) == string(next[:n]) {
		return tear(rng, was, next)
	}
	was = append([]byte(nil), was...)
	if rng.IntN(4) == 0 {
		copy(was, next[:n])
		return was
	}
	copy(was, next[:n])
	return tear(rng, was, next)
}

// tear mixes what was with what was to be, by sectors, of which some come to
// garbage where they are written. Bytes that aren't written keep their value:
// disks that damage the rest of a sector are beyond SQLite's promise
// (https://sqlite.org/psow.html). Of a file that grows the end may be missing.
func tear(rng *rand.Rand, was, next []byte) []byte {
	torn := append([]byte(nil), was...)
	if len(next) > len(was) {
		torn = append(torn, make([]byte, rng.IntN(len(next)-len(was)+1))...)
	}
	for off := 0; off < min(len(next), len(torn)); off += sector {
		how := rng.IntN(4) // 0: it never reached the disk
		for i := off; how > 0 && i < min(off+sector, len(next), len(torn)); i++ {
			switch {
			case i < len(was) && was[i] == next[i]:
			case how == 1:
				torn[i] = byte(rng.Uint32())
			default:
				torn[i] = next[i]
			}
		}
	}
	return torn
}

// reopen counts the events that the disk holds, and has what is open done.
func reopen(t *testing.T, d disk) int {
	path := filepath.Join(t.TempDir(), "journal")
	require.NoError(t, os.WriteFile(path, d.db, 0o600))
	require.NoError(t, os.WriteFile(path+"-wal", d.wal, 0o600))
	e, err := Open(path, Options{})
	require.NoError(t, err)
	defer e.Close()
	var events int
	require.NoError(t, e.db.QueryRow(`SELECT count(*) FROM event`).Scan(&events))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Serve(ctx, dr.Actions{"do": nothing}) })
	for s, err := range e.Runs(ctx) {
		require.NoError(t, err)
		require.Equal(t, dr.RunDone, wait(t, e, s.Run).State)
	}
	cancel()
	wg.Wait()
	return events
}
