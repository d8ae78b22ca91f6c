package main

import (
	"log/slog"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/backend/azure/pageblob"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// azurePoints is where recovery points are kept at Azure: each disk a page blob,
// each point snapshots of them. Disks are made of these without a byte passing
// through this program.
func azurePoints(c *cloud, log *slog.Logger) recoverypoint.PointStore {
	return pageblob.New(c.points, pageblob.Options{Log: log})
}

// homePoints is where they are kept at home, for the way back: a vault in a
// folder.
func homePoints(dir string) (*vault.Store, error) {
	return vault.OpenDir(filepath.Join(dir, "points"), vault.Options{})
}
