//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Told to end in the middle of twenty failovers a worker stops their steps, ends
// within its time, and says so; started again it goes on, and nothing is there twice.
func TestDrainedInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	simulatedSites(t, dir, 20)
	args := []string{"serve", "-v", "-sites", filepath.Join(dir, "sites"), "-journal", filepath.Join(dir, "j.db"), "-listen", "127.0.0.1:0", "-drain", "20s"}
	w := start(t, 1, nil, args...)
	w.ready(true)
	protect(t, w, "first")
	go func() {
		_, _ = http.Post("http://"+w.addr[0]+"/runs", "application/json", strings.NewReader(`{"flow":"unplanned-failover","all":"berlin","run":"flood"}`))
	}()
	require.Eventually(t, func() bool { return w.ask("/runs/flood-berlin-00010", "", nil) == http.StatusOK }, time.Minute, time.Millisecond)
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ended(30*time.Second))

	w = start(t, 1, nil, args...)
	w.ready(true)
	seen := map[dr.MachineID]bool{}
	for i := range 20 {
		id := fmt.Sprintf("berlin-%05d", i)
		require.Equal(t, http.StatusOK, w.ask("/runs", `{"flow":"unplanned-failover","protection":"`+id+`","run":"flood-`+id+`"}`, nil))
		done(t, w, dr.RunID("flood-"+id))
		var p struct{ Protection dr.Protection }
		w.ask("/protections/"+id, "", &p)
		require.Equal(t, "bonn", p.Protection.Active.Site)
		require.False(t, seen[p.Protection.Active.Machine], "one machine for two")
		seen[p.Protection.Active.Machine] = true
	}
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ended(30*time.Second))
}

// A step whose site answers nothing, not even that it ends, doesn't keep a worker
// from ending; its run goes on when the site is back.
func TestDrainedWhileASiteHangs(t *testing.T) {
	dir := t.TempDir()
	sites, _ := simulatedSites(t, dir, 2)
	args := []string{"serve", "-sites", filepath.Join(dir, "sites"), "-journal", filepath.Join(dir, "j.db"), "-listen", "127.0.0.1:0", "-replicate=false", "-drain", "5s"}
	w := start(t, 1, nil, args...)
	w.ready(true)
	protect(t, w, "first")
	sites.signal(syscall.SIGSTOP)
	require.Equal(t, http.StatusOK, w.ask("/runs", `{"flow":"unplanned-failover","protection":"berlin-00001","run":"flood"}`, nil))
	require.Eventually(t, func() bool {
		var s dr.Status
		w.ask("/runs/flood", "", &s)
		for _, x := range s.Steps {
			if x.State == dr.StepRunning {
				return true
			}
		}
		return false
	}, time.Minute, 20*time.Millisecond, "a step is under way")
	began := time.Now()
	w.signal(syscall.SIGTERM)
	code := w.ended(20 * time.Second)
	said, err := os.ReadFile(w.errs)
	require.NoError(t, err)
	t.Logf("exit code %d after %v", code, time.Since(began).Round(time.Millisecond))
	if code != 0 {
		require.Equal(t, exitDrained, code, "%s", said)
		require.Contains(t, string(said), errNotDrained.Error())
	}
	sites.signal(syscall.SIGCONT)

	w = start(t, 1, nil, args...)
	w.ready(true)
	done(t, w, "flood")
	w.signal(syscall.SIGTERM)
	require.Zero(t, w.ended(20*time.Second))
}
