package fsfreeze_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/fsfreeze"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// ledger is a database in small: accounts in a data file, and a log of
// transfers. A transfer is logged and synced before the data file is written,
// in place and unsynced; now and then the data file is synced and the log
// begun anew. So the sum of all accounts is nought, after the log was replayed.
type ledger struct {
	mu        sync.Mutex
	data, log *os.File
	accounts  [accounts]int64
	next      uint64 // number of the next transfer
	logged    int64  // bytes
}

const (
	accounts = 1 << 14
	record   = 36 // number, from, to, amount, checksum
)

func openLedger(dir string) (*ledger, error) {
	l := &ledger{next: 1}
	var err error
	if l.data, err = os.OpenFile(filepath.Join(dir, "data"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if l.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := l.data.Truncate(8 * accounts); err != nil {
		return nil, err
	}
	return l, binary.Read(io.NewSectionReader(l.data, 0, 8*accounts), binary.LittleEndian, l.accounts[:])
}

// recovered replays the log, and tells how many transfers were in it.
func (l *ledger) recovered() (int, error) {
	n := 0
	for {
		var b [record]byte
		_, err := l.log.ReadAt(b[:], int64(n)*record)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if binary.LittleEndian.Uint32(b[32:]) != crc32.ChecksumIEEE(b[:32]) {
			return n, nil // torn: it was not synced yet
		}
		// The log holds the accounts' new sums, so it can be replayed twice.
		from, to := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		l.accounts[from], l.accounts[to] = int64(binary.LittleEndian.Uint64(b[16:])), int64(binary.LittleEndian.Uint64(b[24:]))
		n++
	}
}

func (l *ledger) sum() (sum int64) {
	for _, a := range l.accounts {
		sum += a
	}
	return sum
}

func (l *ledger) transfer(from, to uint32, amount int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from == to {
		return nil
	}
	l.accounts[from] -= amount
	l.accounts[to] += amount
	var b [record]byte
	binary.LittleEndian.PutUint64(b[:], l.next)
	binary.LittleEndian.PutUint32(b[8:], from)
	binary.LittleEndian.PutUint32(b[12:], to)
	binary.LittleEndian.PutUint64(b[16:], uint64(l.accounts[from]))
	binary.LittleEndian.PutUint64(b[24:], uint64(l.accounts[to]))
	binary.LittleEndian.PutUint32(b[32:], crc32.ChecksumIEEE(b[:32]))
	if _, err := l.log.WriteAt(b[:], l.logged); err != nil {
		return err
	}
	if err := l.log.Sync(); err != nil {
		return err
	}
	l.next++
	l.logged += record
	for _, i := range []uint32{from, to} {
		if _, err := l.data.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(l.accounts[i])), 8*int64(i)); err != nil {
			return err
		}
	}
	if l.logged > 64*record {
		return l.checkpoint()
	}
	return nil
}

// done is how many transfers were made.
func (l *ledger) done() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// checkpoint makes the log needless. The caller holds mu.
func (l *ledger) checkpoint() error {
	if err := l.data.Sync(); err != nil {
		return err
	}
	l.logged = 0
	if err := l.log.Truncate(0); err != nil {
		return err
	}
	return l.log.Sync()
}

// A database under load, in small, on each kind of file system: whatever moment
// is captured, the copy's file system is clean and its ledger adds up after the
// log was replayed; where the hooks had it write a checkpoint, the log is
// empty.
func TestLedger(t *testing.T) {
	checks := map[string][]string{"ext4": {"e2fsck", "-fn"}, "xfs": {"xfs_repair", "-n"}, "btrfs": {"btrfs", "check", "--readonly"}}
	for kind, check := range checks {
		t.Run(kind, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			device := fsfreeze.Loop(t, fsfreeze.Sparse(t, fsfreeze.Sizes[kind]))
			fsfreeze.Format(t, kind, device)
			dir := fsfreeze.Mounted(t, kind, device)
			l, err := openLedger(dir)
			require.NoError(t, err)
			t.Cleanup(func() { l.data.Close(); l.log.Close() })

			cfg := physical.Config{Freezes: dr.ApplicationConsistent, Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "d", Path: device}}}}}
			freeze, thaw := fsfreeze.Hooks(fsfreeze.Options{})
			cfg.Hooks = withLedger(l, freeze, thaw)
			s := newSites(t, cfg)
			stop := work(t, l, dir, seed)
			defer stop()

			for i, want := range []dr.Consistency{dr.FileSystemConsistent, dr.ApplicationConsistent, dr.FileSystemConsistent} {
				point, image := s.recover(t, dr.PointID(fmt.Sprint("p", i)), want)
				require.Equal(t, want, point.Consistency)
				if kind != "xfs" {
					fsfreeze.Run(t, check[0], append(check[1:], image)...)
				}
				if kind == "ext4" { // only a frozen one needs no journal
					require.NotContains(t, fsfreeze.Run(t, "dumpe2fs", "-h", image), "needs_recovery")
				}
				replayed, sum := reads(t, kind, image)
				require.Positive(t, sum)
				if kind == "xfs" {
					// XFS freezes with a record in its log, so that files which are
					// deleted but open are known. xfs_repair wants it replayed.
					fsfreeze.Run(t, check[0], append(check[1:], image)...)
				}
				if want == dr.ApplicationConsistent {
					require.Zero(t, replayed, "it recovers although it was prepared")
				}
			}
		})
	}
}

// withLedger has the ledger held from its checkpoint to the thaw, where that is
// wanted, as an application's own script would.
func withLedger(l *ledger, freeze, thaw physical.Hook) physical.Hooks {
	held := false
	return physical.Hooks{
		Freeze: func(ctx context.Context, e physical.Event) error {
			if e.Want == dr.ApplicationConsistent {
				l.mu.Lock()
				held = true
				if err := l.checkpoint(); err != nil {
					return err
				}
			}
			e.Reached = func(dr.Consistency) {} // the scripts' word, and here are none
			return freeze(ctx, e)
		},
		Thaw: func(ctx context.Context, e physical.Event) error {
			err := thaw(ctx, e)
			if held {
				held = false
				l.mu.Unlock()
			}
			return err
		},
	}
}

// work transfers at random, and litters the file system with files that come
// and go.
func work(t *testing.T, l *ledger, dir string, seed uint64) (stop func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for i := range uint64(3) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, i))
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				if err := l.transfer(r.Uint32N(accounts), r.Uint32N(accounts), r.Int64N(1000)); err != nil {
					t.Errorf("transfer: %v", err)
					return
				}
				name := filepath.Join(dir, fmt.Sprint("litter", i, r.IntN(20)))
				if r.IntN(2) == 0 {
					_ = os.Remove(name)
				} else if err := os.WriteFile(name, make([]byte, r.IntN(100<<10)), 0o600); err != nil {
					t.Errorf("litter: %v", err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(over)
		all.Wait()
	})
	if !assert.Eventually(t, func() bool { return l.done() > 20 }, time.Minute, time.Millisecond) {
		stop()
		t.FailNow()
	}
	return stop
}

// reads opens the ledger of a copied disk and proves that it adds up.
func reads(t *testing.T, kind, image string) (replayed int, sum uint64) {
	t.Helper()
	t.Run("copy", func(t *testing.T) { // for its clean-up
		l, err := openLedger(fsfreeze.Mounted(t, kind, fsfreeze.Loop(t, image)))
		require.NoError(t, err)
		defer l.data.Close()
		defer l.log.Close()
		replayed, err = l.recovered()
		require.NoError(t, err)
		require.Zero(t, l.sum())
		for _, a := range l.accounts {
			sum += uint64(max(a, -a))
		}
		t.Logf("%d transfers replayed", replayed)
	})
	return replayed, sum
}

// Who copies too slowly finds the machine thawed at the limit, and has no point;
// its writers have waited no longer.
func TestDeadline(t *testing.T) {
	device := fsfreeze.Loop(t, fsfreeze.Sparse(t, fsfreeze.Sizes["ext4"]))
	fsfreeze.Format(t, "ext4", device)
	dir := fsfreeze.Mounted(t, "ext4", device)
	l, err := openLedger(dir)
	require.NoError(t, err)
	t.Cleanup(func() { l.data.Close(); l.log.Close() })
	var report fsfreeze.Report
	cfg := physical.Config{FreezeLimit: 500 * time.Millisecond, Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "d", Path: device}}}}}
	cfg.Hooks.Freeze, cfg.Hooks.Thaw = fsfreeze.Hooks(fsfreeze.Options{Report: func(r fsfreeze.Report) { report = r }})
	s := newSites(t, cfg)
	stop := work(t, l, dir, 1)
	defer stop()
	img, err := s.host.Capture(t.Context(), "m", "p", dr.FileSystemConsistent)
	require.NoError(t, err)
	more, err := img.(dr.Settler).Settle(t.Context())
	require.NoError(t, err)
	require.True(t, more)
	buf := make([]byte, 4096)
	_, err = img.ReadAt(t.Context(), "d", buf, 0)
	require.NoError(t, err)
	before := l.done() // hangs with the writers, until they go on
	require.Eventually(t, func() bool { return l.done() > before+20 }, time.Minute, time.Millisecond)
	_, err = img.ReadAt(t.Context(), "d", buf, 0)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	_, err = img.(dr.Settler).Settle(t.Context())
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.NoError(t, img.Close())
	require.NoError(t, report.Err, "it was frozen until the limit")
	require.GreaterOrEqual(t, report.Frozen, 250*time.Millisecond)
	require.Less(t, report.Frozen, 10*time.Second)
	t.Logf("frozen for %v", report.Frozen)
}
