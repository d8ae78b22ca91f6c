package pageblob

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// headFormat is raised when an older store would misread a head.
const headFormat = 1

// head is all of a machine's state that changes: it is swapped as one, and
// everything else in the container is there because the head names it, or is
// left over.
type head struct {
	Format int    `json:"format"`
	Rev    uint64 `json:"rev"`
	// Swap is drawn for each swap: so a writer whose answer was lost sees
	// whether it was the one.
	Swap string `json:"swap"`
	// Next is the number of the next point; numbers never come again.
	Next uint64 `json:"next"`
	// Epoch is raised by each draft that is opened: who has an older one is
	// fenced.
	Epoch  uint64  `json:"epoch"`
	Drafts []begun `json:"drafts,omitempty"`
	Points []entry `json:"points,omitempty"` // in the order of their commits
	Blobs  []base  `json:"blobs,omitempty"`
}

// begun is a draft that is not committed.
type begun struct {
	ID     string   `json:"id"`
	Point  dr.Point `json:"point"`  // as given to Create
	Parent uint64   `json:"parent"` // the number of its parent; 0: zeros
}

// entry is a committed point.
type entry struct {
	Seq    uint64     `json:"seq"`
	ID     dr.PointID `json:"id"`
	Draft  string     `json:"draft"`
	Parent uint64     `json:"parent"` // 0: zeros. It may be of a point that is known no more.
	// Manifest is the object's name within the machine's folder.
	Manifest string `json:"manifest"`
	// Received says that there is staged data and no snapshot yet.
	Received bool `json:"received,omitempty"`
	// Gone says that the point was deleted, and is kept for others: its
	// content for drafts and received points over it, or what it changed.
	Gone bool `json:"gone,omitempty"`
	// Bare says that its snapshots are deleted, or are to be.
	Bare bool `json:"bare,omitempty"`
}

func (e entry) listed() bool { return !e.Received && !e.Gone }

// base is a page blob as it is now.
type base struct {
	Name string    `json:"name"` // within the machine's folder
	Disk dr.DiskID `json:"disk"`
	// Holds is the point whose content it has; 0: nobody knows, or for a
	// blob that never held any: zeros.
	Holds uint64 `json:"holds,omitempty"`
	// Applying is the point that is being written over that, and By the
	// process that does.
	Applying uint64 `json:"applying,omitempty"`
	By       string `json:"by,omitempty"`
	// Fresh says that no point but Applying was ever written to it.
	Fresh bool `json:"fresh,omitempty"`
}

func (h *head) bySeq(seq uint64) *entry {
	i, ok := slices.BinarySearchFunc(h.Points, seq, func(e entry, seq uint64) int {
		switch {
		case e.Seq < seq:
			return -1
		case e.Seq > seq:
			return 1
		}
		return 0
	})
	if !ok || seq == 0 {
		return nil
	}
	return &h.Points[i]
}

// find returns the point of that name that is not gone, processed or not.
func (h *head) find(id dr.PointID) *entry {
	for i := range h.Points {
		if e := &h.Points[i]; e.ID == id && !e.Gone {
			return e
		}
	}
	return nil
}

func (h *head) byDraft(draft string) *entry {
	for i := range h.Points {
		if h.Points[i].Draft == draft {
			return &h.Points[i]
		}
	}
	return nil
}

func (h *head) draft(id string) *begun {
	for i := range h.Drafts {
		if h.Drafts[i].ID == id {
			return &h.Drafts[i]
		}
	}
	return nil
}

func (h *head) blob(name string) *base {
	for i := range h.Blobs {
		if h.Blobs[i].Name == name {
			return &h.Blobs[i]
		}
	}
	return nil
}

// settle drops the points that are gone and that nothing needs any more, and
// marks those bare whose content nothing needs.
func (h *head) settle() {
	for changed := true; changed; {
		changed = false
		content := map[uint64]bool{} // needed by something that is not a snapshot yet
		children := map[uint64]int{}
		known := map[uint64]bool{}
		for _, d := range h.Drafts {
			content[d.Parent] = true
			children[d.Parent]++
		}
		for _, e := range h.Points {
			known[e.Seq] = true
			children[e.Parent]++
			if e.Received {
				content[e.Parent] = true
			}
		}
		h.Points = slices.DeleteFunc(h.Points, func(e entry) bool {
			if !e.Gone || content[e.Seq] {
				return false
			}
			// One without children tells nothing. Nor does one at the top with
			// a single child: no other line of points meets that child above.
			drop := e.Received || children[e.Seq] == 0 || children[e.Seq] == 1 && !known[e.Parent]
			changed = changed || drop
			return drop
		})
		for i := range h.Points {
			e := &h.Points[i]
			e.Bare = e.Gone && !e.Received && (e.Bare || !content[e.Seq])
		}
	}
}

func (h *head) bytes() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(h); err != nil {
		panic(err) // nothing in it that JSON can't say
	}
	return b.Bytes()
}

// parseHead reads and checks a head.
func parseHead(b []byte) (*head, error) {
	bad := func(format string, args ...any) (*head, error) {
		return nil, fmt.Errorf("%w: head: %s", dr.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	var h head
	if err := json.Unmarshal(b, &h); err != nil {
		return bad("%v", err)
	}
	if h.Format > headFormat {
		return nil, fmt.Errorf("%w: head of format %d, this store knows %d", dr.ErrUnsupported, h.Format, headFormat)
	}
	if h.Format != headFormat {
		return bad("format %d", h.Format)
	}
	last := uint64(0)
	for _, e := range h.Points {
		switch {
		case e.ID.Validate() != nil || !isNonce(e.Draft) || !isManifestName(e.Manifest):
			return bad("point %q", e.ID)
		case e.Seq <= last || e.Seq >= h.Next || e.Parent >= e.Seq:
			return bad("point %q is out of order", e.ID)
		}
		last = e.Seq
	}
	for _, d := range h.Drafts {
		if check(d.Point) != nil || !isNonce(d.ID) || d.Parent >= h.Next {
			return bad("draft %q", d.ID)
		}
	}
	for _, x := range h.Blobs {
		if !isBlobName(x.Name) || x.Disk == "" || x.Holds >= h.Next || x.Applying >= h.Next {
			return bad("blob %q", x.Name)
		}
	}
	return &h, nil
}

func isManifestName(s string) bool {
	if p, ok := strings.CutPrefix(s, pointDir); ok {
		i := strings.LastIndexByte(p, '.')
		return i > 0 && dr.PointID(p[:i]).Validate() == nil && isNonce(p[i+1:])
	}
	if p, ok := strings.CutPrefix(s, stageDir); ok {
		draft, rest, ok := strings.Cut(p, "/")
		n, ok2 := strings.CutPrefix(rest, receivedAs)
		return ok && ok2 && isNonce(draft) && isNonce(n)
	}
	return false
}

func isBlobName(s string) bool {
	p, ok := strings.CutPrefix(s, diskDir)
	p, ok2 := strings.CutSuffix(p, ".vhd")
	return ok && ok2 && len(p) == 24+1+16 && p[24] == '-' && isHex(p[:24]) && isHex(p[25:])
}
