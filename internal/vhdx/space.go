package vhdx

// space is which MiB of the file are taken, while it is being opened.
type space struct {
	bits []uint64 // of maxFile at most: 16 MiB
}

func (s *space) taken(i int64) bool {
	return i/64 < int64(len(s.bits)) && s.bits[i/64]>>(i%64)&1 == 1
}

// take marks [off, off+n), or refuses what is taken already in part.
func (s *space) take(off, n int64) bool {
	for i := off / mib; i < (off+n+mib-1)/mib; i++ {
		if s.taken(i) {
			return false
		}
	}
	s.cover(off, n)
	return true
}

func (s *space) cover(off, n int64) {
	for i := off / mib; i < (off+n+mib-1)/mib; i++ {
		for int64(len(s.bits)) <= i/64 {
			s.bits = append(s.bits, 0)
		}
		s.bits[i/64] |= 1 << (i % 64)
	}
}

// end is behind the last MiB taken.
func (s *space) end() int64 {
	i := int64(len(s.bits)) * 64
	for ; i > 0 && !s.taken(i-1); i-- {
	}
	return i * mib
}

// maxGaps bounds how many places a disk remembers to use again.
const maxGaps = 1 << 16

// gaps are places below size that have room for n bytes.
func (s *space) gaps(size, n int64) (list []int64) {
	run := int64(0)
	for i := int64(0); i < size/mib && len(list) < maxGaps; i++ {
		if run++; s.taken(i) {
			run = 0
		}
		if run == n/mib {
			list = append(list, (i+1)*mib-n)
			run = 0
		}
	}
	return list
}
