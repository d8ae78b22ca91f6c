package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// SyncDir implements fsys.FS.
func (f *FS) SyncDir(name string) error {
	op := Op{Kind: SyncDir, Path: rooted(name)}
	return pathError(op.Kind, name, f.do(op, func() error {
		dir, err := f.find(op.Path)
		if err != nil {
			return err
		}
		if !dir.isDir() {
			return syscall.ENOTDIR
		}
		f.syncNames(dir)
		return nil
	}))
}

// syncNames makes the changes in dir durable, and with them those that must
// come before: earlier ones in a folder that a rename ties to it.
func (f *FS) syncNames(dir *node) {
	dirs := map[*node]bool{dir: true}
	all := false
	take := make([]bool, len(f.names))
	for i, c := range slices.Backward(f.names) {
		take[i] = all || slices.ContainsFunc(c.edits, func(e nameEdit) bool { return dirs[e.dir] })
		if take[i] {
			all = all || c.barrier
			for _, e := range c.edits {
				dirs[e.dir] = true
			}
		}
	}
	left := f.names[:0]
	for i, c := range f.names {
		if !take[i] {
			left = append(left, c)
			continue
		}
		for _, e := range c.edits {
			put(e.dir.durable, e.name, e.node)
		}
	}
	clear(f.names[len(left):])
	f.names = left
}

func put(names map[string]*node, name string, n *node) {
	if n == nil {
		delete(names, name)
	} else {
		names[name] = n
	}
}

// Cut turns power off: from now on every operation, by old handles too, fails
// with [ErrPowerLost]. A second Cut does nothing.
func (f *FS) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
}

// Restart is the file system as it is found after power came back, cutting it
// before if that wasn't done. f stays off, and each further Restart draws
// another state that the same power cut may have left. The new file system has
// f's budget, but neither faults nor tracer, and counts its operations from 1.
func (f *FS) Restart() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	f.restarts++
	rng := rand.New(rand.NewPCG(f.seed, f.restarts))
	r := restart{loss: newLoss(rng), fs: New(rng.Uint64()), nodes: map[*node]*node{}}
	r.fs.budget = f.budget
	r.fs.root = r.folder(f.root)
	for _, c := range r.survivors(f.names) {
		for _, e := range c.edits {
			put(r.node(e.dir).names, e.name, r.node(e.node))
		}
	}
	r.settle(r.fs.root)
	return r.fs
}

// restart builds a file system from what another left. The tree comes first,
// and then, in the order of the names, so that a seed tells all, the content of
// what is in it.
type restart struct {
	loss
	fs    *FS
	nodes map[*node]*node // new by old
}

func (r *restart) node(old *node) *node {
	switch n := r.nodes[old]; {
	case old == nil || n != nil:
		return n
	case old.isDir():
		return r.folder(old)
	default:
		n = &node{mode: old.mode, mtime: old.mtime}
		r.nodes[old] = n
		n.origin = old
		return n
	}
}

func (r *restart) folder(old *node) *node {
	n := newDir(old.mode)
	n.mtime = old.mtime
	r.nodes[old] = n
	for name, child := range old.durable {
		n.names[name] = r.node(child)
	}
	return n
}

// survivors draws which changes of names are found again: all up to one, and
// of the later ones some, of each folder a beginning.
func (r *restart) survivors(names []nameChange) []nameChange {
	journal, later := r.rng.IntN(len(names)+1), []float64{0, 0.5, 1}[r.rng.IntN(3)]
	if r.keep >= 0 {
		journal, later = 0, r.keep
	}
	var kept []nameChange
	lost := map[*node]bool{}
	for i, c := range names {
		alive := i < journal || r.rng.Float64() < later
		if len(lost) > 0 {
			alive = alive && !c.barrier && !slices.ContainsFunc(c.edits, func(e nameEdit) bool { return lost[e.dir] })
		}
		if alive {
			kept = append(kept, c)
			continue
		}
		for _, e := range c.edits {
			lost[e.dir] = true
		}
	}
	return kept
}

// settle makes what was found durable, and gives the files their content.
func (r *restart) settle(dir *node) {
	dir.durable = maps.Clone(dir.names)
	for _, name := range slices.Sorted(maps.Keys(dir.names)) {
		n := dir.names[name]
		n.links++
		if n.isDir() {
			r.settle(n)
		} else if n.origin != nil {
			n.content = n.origin.afterCut(r.loss)
			n.origin = nil
			r.fs.used += n.pages * pageSize
		}
	}
}
