//go:build linux

package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Everything on Temporal, small: a run there costs a hundred times what it
// costs on the embedded engine, which is more than CI has.
func TestShowOnTemporal(t *testing.T) {
	if os.Getenv("LIFEBOAT_LONG") == "" {
		t.Skip("minutes; LIFEBOAT_LONG=1 runs it")
	}
	o, err := parse([]string{"-machines", "60", "-workers", "3", "-cycle", "10s", "-rpo", "40s", "-for", "30s", "-lease", "3s", "-report", "5s",
		"-failover", "30", "-plan", "15", "-waves", "2", "-engine", "temporal"})
	require.NoError(t, err)
	show(t, o, t.Output())
}

// A small sample of the show, whole.
func TestShow(t *testing.T) {
	o, err := parse([]string{"-machines", "300", "-workers", "2", "-cycle", "8s", "-rpo", "40s", "-for", "8s", "-lease", "3s", "-shards", "6", "-report", "5s",
		"-failover", "30", "-plan", "15", "-waves", "2"})
	require.NoError(t, err)
	show(t, o, t.Output())
}
