package physical

import "github.com/lifeboat-dr/lifeboat/dr"

// Paths returns where the machine's disks are, in the order of its Disks: for
// programs that check or mount a stopped machine's disks themselves. Who
// writes to them takes from Prepare's Holds its meaning.
func (h *Host) Paths(id dr.MachineID) ([]string, error) {
	m, err := h.machine("paths", id)
	if err != nil {
		return nil, err
	}
	rec := m.record()
	if rec == nil {
		return nil, &dr.Error{Op: "paths", Machine: id, Err: dr.ErrNotFound}
	}
	paths := make([]string, len(rec.Disks))
	for i, d := range rec.Disks {
		paths[i] = m.path(d)
	}
	return paths, nil
}
