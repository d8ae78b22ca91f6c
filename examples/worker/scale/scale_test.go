//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A small sample of the show, whole.
func TestShow(t *testing.T) {
	o, err := parse([]string{"-machines", "300", "-workers", "2", "-cycle", "4s", "-rpo", "15s", "-for", "8s", "-lease", "3s", "-shards", "6", "-report", "5s",
		"-failover", "30", "-plan", "15", "-waves", "2"})
	require.NoError(t, err)
	show(t, o, t.Output())
}
