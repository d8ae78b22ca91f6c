package bpftrack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// format names what the state and the pinned maps look like, and what the pinned
// programs do. A process that finds another one begins anew.
const format = 2

// state is what a process leaves for the next one, as JSON behind a line with
// its SHA-256. It lies in memory (tmpfs), so it need not be synced: it lives
// exactly as long as the kernel that holds the pins.
//
// It is written whole before bits are cleared in the kernel. A process that
// dies in between leaves bits that are in an older epoch too: that says too
// much, never too little.
type state struct {
	Format   int                           `json:"format"`
	Block    int64                         `json:"block"`
	Trust    bool                          `json:"trust,omitempty"` // Options.TrustPassthrough
	Session  string                        `json:"session"`
	N        uint64                        `json:"n"`
	Machines map[dr.MachineID]stateMachine `json:"machines"`
}

type stateMachine struct {
	Disks  map[dr.DiskID]kept `json:"disks"` // those that are tracked
	Epochs []stateEpoch       `json:"epochs"`
}

// kept is a tap that is pinned.
type kept struct {
	Path   string `json:"path"`
	Born   uint64 `json:"born"`
	Device device `json:"device"`
	Name   string `json:"name"`
	IDs    ids    `json:"ids"`
	Words  int    `json:"words"`
}

// ids are the kernel's numbers of what is pinned; it doesn't use one twice.
type ids struct {
	Map      uint32    `json:"map"`
	Programs [2]uint32 `json:"programs"`
	Links    [2]uint32 `json:"links"`
}

type stateEpoch struct {
	N     uint64                 `json:"n"`
	Dirty map[dr.DiskID]stateSet `json:"dirty"`
}

type stateSet struct {
	All bool `json:"all,omitempty"`
	// Pages are, one behind the other and in no order: the page's number, a bit
	// for each of its words that isn't zero, and those words. All are 8 bytes,
	// little-endian. A mark is set while the machine is frozen, so it matters that
	// this is small and quickly made.
	Pages []byte `json:"pages,omitempty"`
}

func (s stateSet) set() (*set, error) {
	got := &set{all: s.All}
	b := s.Pages
	next := func() (v uint64, ok bool) {
		if len(b) < 8 {
			return 0, false
		}
		v, b = binary.LittleEndian.Uint64(b), b[8:]
		return v, true
	}
	for len(b) > 0 {
		n, _ := next()
		there, ok := next()
		if !ok || n >= 1<<40 {
			return nil, fmt.Errorf("page %d", n)
		}
		for ; there != 0; there &= there - 1 {
			v, ok := next()
			if !ok {
				return nil, fmt.Errorf("page %d is cut off", n)
			}
			got.or(int64(n)*pageWords+int64(bits.TrailingZeros64(there)), v)
		}
	}
	return got, nil
}

func stateOf(s *set) stateSet {
	out := stateSet{All: s.all}
	if s.all {
		return out
	}
	for n, page := range s.pages {
		there := uint64(0)
		for i, v := range page {
			if v != 0 {
				there |= 1 << i
			}
		}
		out.Pages = binary.LittleEndian.AppendUint64(out.Pages, uint64(n))
		out.Pages = binary.LittleEndian.AppendUint64(out.Pages, there)
		for _, v := range page {
			if v != 0 {
				out.Pages = binary.LittleEndian.AppendUint64(out.Pages, v)
			}
		}
	}
	return out
}

func (s state) encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return seal(b), nil
}

func seal(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append([]byte(hex.EncodeToString(sum[:])+"\n"), b...)
}

func decodeState(b []byte) (s state, err error) {
	sum, body, ok := bytes.Cut(b, []byte("\n"))
	if want := sha256.Sum256(body); !ok || string(sum) != hex.EncodeToString(want[:]) {
		return s, errors.New("it is damaged")
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, err
	}
	if s.Format != format || s.Session == "" {
		return s, fmt.Errorf("it has format %d, not %d", s.Format, format)
	}
	for id, m := range s.Machines {
		if err := id.Validate(); err != nil {
			return s, err
		}
		last := uint64(0)
		for _, e := range m.Epochs {
			if e.N <= last || e.N > s.N {
				return s, fmt.Errorf("machine %s: mark %d after %d of %d", id, e.N, last, s.N)
			}
			last = e.N
		}
		for d, k := range m.Disks {
			if k.Words <= headerWords || k.Name == "" || k.Name != filepath.Base(k.Name) || k.Born > s.N {
				return s, fmt.Errorf("machine %s, disk %s: pins %q of %d words", id, d, k.Name, k.Words)
			}
		}
	}
	return s, nil
}

// keep writes the state, if one is kept. One that can't be written is removed
// instead, for a full tmpfs must not end the making of points: then the marks
// end with the process, as a restart finds no state. It fails only if the old one,
// which says less than there is, can't be removed either.
func (t *Tracker) keep() error {
	if t.lock == nil {
		return nil
	}
	s := state{Format: format, Block: t.block, Trust: t.o.TrustPassthrough, Session: t.session, N: t.n, Machines: map[dr.MachineID]stateMachine{}}
	for id, m := range t.machines {
		sm := stateMachine{Disks: map[dr.DiskID]kept{}}
		for d, k := range m.disks {
			if k.in != nil {
				sm.Disks[d] = kept{k.path, k.born, k.in.device, k.in.name, k.in.ids, len(k.in.words)}
			}
		}
		for _, e := range m.epochs {
			se := stateEpoch{e.n, map[dr.DiskID]stateSet{}}
			for d, dirty := range e.dirty {
				se.Dirty[d] = stateOf(dirty)
			}
			sm.Epochs = append(sm.Epochs, se)
		}
		s.Machines[id] = sm
	}
	b, err := s.encode()
	if err != nil {
		return err
	}
	path := filepath.Join(t.o.State, "state")
	err = t.save(path+".new", b)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		t.unsaved = false
		return nil
	}
	_ = os.Remove(path + ".new") // what there is of it takes the room of others
	if old := os.Remove(path); old != nil && !errors.Is(old, os.ErrNotExist) {
		return errors.Join(err, old)
	}
	if !t.unsaved {
		t.o.Log.Warn("a restart will lose the marks: the state can't be written", "why", err)
	}
	t.unsaved = true
	return nil
}

func writeState(path string, b []byte) error { return os.WriteFile(path, b, 0o600) }

// resume takes over what the last process left, and removes what it can't.
func (t *Tracker) resume() error {
	if err := os.MkdirAll(t.o.State, 0o700); err != nil {
		return err
	}
	lock, err := lockState(t.o.State)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(t.o.State, "state"))
	var s state
	if err == nil {
		s, err = decodeState(b)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		t.o.Log.Warn("the marks are lost: the state can't be read", "why", err)
	case s.Block != t.block || s.Trust != t.o.TrustPassthrough:
		t.o.Log.Warn("the marks are lost: the options are others")
	default:
		t.take(s)
	}
	t.lock = lock
	var names []string
	for _, m := range t.machines {
		for _, k := range m.disks {
			if k.in != nil {
				names = append(names, k.in.name)
			}
		}
	}
	slices.Sort(names)
	if err := t.sys.sweep(names); err != nil {
		// The next Track says what is wrong with the folder.
		t.o.Log.Warn("old pins can't be removed", "why", err)
	}
	return nil
}

func (t *Tracker) take(s state) {
	t.session, t.n = s.Session, s.N
	for id, sm := range s.Machines {
		m := t.machine(id)
		for _, e := range sm.Epochs {
			me := epoch{e.N, map[dr.DiskID]*set{}}
			for d, dirty := range e.Dirty {
				got, err := dirty.set()
				if err != nil {
					got = &set{all: true}
				}
				me.dirty[d] = got
			}
			m.epochs = append(m.epochs, me)
		}
		for d, k := range sm.Disks {
			in, err := t.sys.pinned(k.Device, k)
			m.disks[d] = &disk{path: k.Path, born: k.Born, in: in, why: err}
			if err != nil {
				t.o.Log.Warn("the marks of a disk are lost", "machine", id, "disk", d, "why", err)
			}
		}
	}
}
