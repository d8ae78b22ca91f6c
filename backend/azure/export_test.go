package azure

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrRefused is what refusals of Azure are.
var ErrRefused = errRefused

// Serially makes all calls one after the other, for traces.
func (a *Azure) Serially() { a.width = 1 }

// DiskAt is where a disk's bytes are: for tests, which look at them with eyes of
// their own.
type DiskAt struct {
	LUN        int32
	Blob, Disk string
}

// DiskAt finds a disk's bytes.
func (a *Azure) DiskAt(ctx context.Context, id dr.MachineID, disk dr.DiskID) (DiskAt, error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return DiskAt{}, err
	}
	r := m.current()
	d := r.disk(disk)
	if d == nil {
		return DiskAt{}, dr.ErrNotFound
	}
	return DiskAt{d.LUN, d.Blob, d.Disk}, nil
}

// Where is the group and the name of a machine.
func (a *Azure) Where(ctx context.Context, id dr.MachineID) (group, name string, err error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return "", "", err
	}
	return m.at.group, m.at.name, nil
}

// PlacementOf is what the record says of where a replica is.
func (a *Azure) PlacementOf(ctx context.Context, id dr.MachineID) (backend.Placement, error) {
	r, _, err := a.load(ctx, id)
	return *r.Placement, err
}

// KeyOf is a replica's key.
func (a *Azure) KeyOf(ctx context.Context, id dr.MachineID) (string, error) {
	r, _, err := a.load(ctx, id)
	return r.Key, err
}

// Bases are the snapshots that are kept to tell changes since.
func (a *Azure) Bases(ctx context.Context) ([]string, error) {
	var names []string
	for name, err := range a.blobs(ctx, "machines/") {
		if err != nil {
			return nil, err
		}
		id := dr.MachineID(name[len("machines/") : len(name)-len(".json")])
		r, _, err := a.load(ctx, id)
		if err != nil {
			continue
		}
		for _, mo := range r.Moments {
			if !mo.Base && !mo.Released {
				continue
			}
			for _, d := range mo.Disks {
				names = append(names, d.Before, d.After)
			}
		}
	}
	return names, nil
}
