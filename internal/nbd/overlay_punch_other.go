//go:build !linux

package nbd

// punch gives space back if the file knows how.
func punch(f File, off, n int64) error {
	if p, ok := f.(puncher); ok {
		return p.PunchHole(off, n)
	}
	return nil
}
