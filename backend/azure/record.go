package azure

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// record is what this library knows of a machine: a blob in the staging
// container, changed by compare-and-swap. Machines that nobody prepared,
// drafted or captured have none.
type record struct {
	Version int `json:"v"`
	// Rev tells each content from all others, so that a writer whose answer
	// was lost can see whether it was the one.
	Rev string       `json:"rev"`
	ID  dr.MachineID `json:"id"`

	// Placement is the last that Prepare was given, Key the one that the
	// replica was made for. Made says that Prepare made it; Reused that it was
	// found as an original since, and so isn't Remove's to take.
	Key       string             `json:"key,omitempty"`
	Made      bool               `json:"made,omitempty"`
	Reused    bool               `json:"reused,omitempty"`
	Placement *backend.Placement `json:"placement,omitempty"`

	// VM is the machine at Azure, once there is one; until then it is the name
	// that it will have. VMID is Azure's own ID of it.
	Group string `json:"group"`
	Name  string `json:"name"`
	VMID  string `json:"vmId,omitempty"`
	Size  string `json:"size,omitempty"`

	Disks []diskRecord `json:"disks,omitempty"`
	// Rules are resource IDs of security rules that were made for the machine in
	// groups of others.
	Rules []string `json:"rules,omitempty"`

	// Fences is whose claims have changed the machine.
	Fences backend.Fences `json:"fences,omitempty"`

	// New, Torn and Holds are as in backend.Replica. Draft tells the draft that
	// tore the disks from all others.
	New   bool       `json:"new,omitempty"`
	Torn  bool       `json:"torn,omitempty"`
	Holds dr.PointID `json:"holds,omitempty"`
	Draft string     `json:"draft,omitempty"`

	// Untidy says that what was begun since may have left things that no record
	// knows of.
	Untidy bool `json:"untidy,omitempty"`
	// Gen numbers what is made, so that nothing is taken for something older.
	Gen int `json:"gen,omitempty"`
	// Begun is the point that the last committed draft made the disks hold:
	// changes since it can be told, by the base that is taken before the
	// machine runs. Older is what a machine had before that: of these all can
	// have changed.
	Begun string       `json:"begun,omitempty"`
	Older []dr.PointID `json:"older,omitempty"`
	// Moments are captures and bases, in the order in which they were made.
	Moments []moment `json:"moments,omitempty"`
}

// diskRecord is one disk of a machine, which is a page blob until the machine
// starts, and a managed disk from then on. One that is neither reads as zeros.
type diskRecord struct {
	ID   dr.DiskID `json:"id"`
	Name string    `json:"name,omitempty"`
	Size int64     `json:"size"` // without what pads it
	Boot bool      `json:"boot,omitempty"`
	LUN  int32     `json:"lun"` // -1: the OS disk

	Blob string `json:"blob,omitempty"` // its name, if it holds the content
	Disk string `json:"disk,omitempty"` // resource ID; the content, unless Blob is set
	// Unique and Owned are what Azure said of the managed disk when its content
	// was last known: another disk of the name, or one that a machine had since,
	// may hold anything. Actual is its size in bytes then.
	Unique string    `json:"unique,omitempty"`
	Owned  time.Time `json:"owned,omitzero"`
	Actual int64     `json:"actual,omitempty"`
	// Had is the size that the content still has, if it is to grow to Size.
	Had int64 `json:"had,omitempty"`
	// Replaced are managed disks that the machine had before this one, to be
	// deleted when it starts with it.
	Replaced []string `json:"replaced,omitempty"`
}

// moment is a set of snapshots, one a disk, from which images are read and
// changes are told.
type moment struct {
	Point       dr.PointID     `json:"point"`
	Attempt     string         `json:"attempt"` // tells it from others of the name
	Time        time.Time      `json:"time,omitzero"`
	Consistency dr.Consistency `json:"consistency,omitempty"`
	Done        bool           `json:"done,omitempty"`
	Released    bool           `json:"released,omitempty"` // kept as a base only
	Gone        bool           `json:"gone,omitempty"`     // being deleted
	// Over says of what is gone that its own attempt has ended: nothing more of
	// it comes to be.
	Over bool `json:"over,omitempty"`
	// Base was taken of a point that a draft had committed.
	Base  bool         `json:"base,omitempty"`
	Disks []momentDisk `json:"disks,omitempty"`
	// Set is the restore point that the bytes are read from, where snapshots
	// alone would not be of one moment.
	Set     string      `json:"set,omitempty"`
	Machine *dr.Machine `json:"machine,omitempty"`
}

// momentDisk is a disk at a moment. The bytes are those of Restore if it is
// set, else of Before; what changed until the moment is told by After, what
// changed since it by Before, and both are the same snapshot where nothing
// could happen between them.
type momentDisk struct {
	ID      dr.DiskID `json:"id"`
	Unique  string    `json:"unique"` // of the managed disk
	Size    int64     `json:"size"`
	Before  string    `json:"before"`
	After   string    `json:"after"`
	Restore string    `json:"restore,omitempty"`
}

const recordVersion = 1

func recordBlob(id dr.MachineID) string { return "machines/" + string(id) + ".json" }

// load reads a machine's record; dr.ErrNotFound if there is none.
func (a *Azure) load(ctx context.Context, id dr.MachineID) (record, azcore.ETag, error) {
	if err := id.Validate(); err != nil {
		return record{}, "", err
	}
	resp, err := a.opts.Staging.NewBlobClient(recordBlob(id)).DownloadStream(ctx, nil)
	if err != nil {
		if isNotFound(err) {
			err = fmt.Errorf("%w: %w", dr.ErrNotFound, explain(err))
		}
		return record{}, "", explain(err)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxRecord+1))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return record{}, "", fmt.Errorf("read the machine's record: %w", err)
	}
	r, err := parseRecord(raw, id)
	return r, deref(resp.ETag), err
}

// maxRecord bounds a record: hundreds of moments of dozens of disks.
const maxRecord = 16 << 20

func parseRecord(raw []byte, id dr.MachineID) (record, error) {
	damaged := func(err error) (record, error) {
		return record{}, &dr.Error{Op: "read the record", Machine: id, Err: fmt.Errorf("%w: blob %s: %w", dr.ErrCorrupt, recordBlob(id), err),
			Remedy: "restore that blob, or remove the machine's resources, which are tagged with " + tagMachine + ", and the blob"}
	}
	if len(raw) > maxRecord {
		return damaged(errors.New("larger than any record"))
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return damaged(err)
	}
	if head.Version != recordVersion {
		return record{}, &dr.Error{Op: "read the record", Machine: id, Err: fmt.Errorf("%w: blob %s of version %d", dr.ErrUnsupported, recordBlob(id), head.Version),
			Remedy: "a newer Lifeboat wrote it: use that one"}
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return damaged(err)
	}
	if r.ID != id {
		return damaged(fmt.Errorf("it is of machine %q", r.ID))
	}
	return r, nil
}

// save writes the record if it still is what etag says, "" for one that must
// not be there; else it is dr.ErrConflict.
func (a *Azure) save(ctx context.Context, r *record, etag azcore.ETag) (azcore.ETag, error) {
	r.Version, r.Rev = recordVersion, rand.Text()
	raw, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	cond := &blob.ModifiedAccessConditions{IfMatch: &etag}
	if etag == "" {
		any := azcore.ETagAny
		cond = &blob.ModifiedAccessConditions{IfNoneMatch: &any}
	}
	resp, err := a.opts.Staging.NewBlockBlobClient(recordBlob(r.ID)).Upload(ctx, streaming.NopCloser(bytes.NewReader(raw)),
		&blockblob.UploadOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: cond}})
	if err == nil {
		return deref(resp.ETag), nil
	}
	status, _ := codeOf(err)
	if status == http.StatusPreconditionFailed || status == http.StatusConflict {
		// The answer to the first attempt may have been lost, and the client's
		// second one refused.
		if is, now, err := a.load(ctx, r.ID); err == nil && is.Rev == r.Rev {
			return now, nil
		}
		return "", fmt.Errorf("%w: the machine's record", dr.ErrConflict)
	}
	return "", fmt.Errorf("write the machine's record: %w", explain(err))
}

// errUnchanged is returned by a change that finds nothing to do.
var errUnchanged = errors.New("unchanged")

// update changes a record, again on what it became if somebody was faster.
// change must do nothing else. A record that isn't there is handed out as fresh
// says, or is dr.ErrNotFound. Whose claim was taken over changes none; who is
// admitted is remembered with the change.
func (a *Azure) update(ctx context.Context, id dr.MachineID, fresh func() (record, error), change func(*record) error) (record, error) {
	r, _, err := a.updated(ctx, id, fresh, change)
	return r, err
}

// updated is update that also returns what tells the record from later ones.
func (a *Azure) updated(ctx context.Context, id dr.MachineID, fresh func() (record, error), change func(*record) error) (record, azcore.ETag, error) {
	for try := 0; ; try++ {
		at := time.Now()
		r, etag, err := a.load(ctx, id)
		if errors.Is(err, dr.ErrNotFound) && fresh != nil {
			r, err = fresh()
		}
		if err != nil {
			return record{}, "", err
		}
		next, raised, err := r.Fences.Admit(ctx)
		if err != nil {
			return r, "", err
		}
		r.Fences = next
		switch err := change(&r); {
		case errors.Is(err, errUnchanged) && !raised:
			saw(ctx, at)
			return r, etag, nil
		case err != nil && !errors.Is(err, errUnchanged):
			return r, "", err
		}
		now, err := a.save(ctx, &r, etag)
		if err == nil {
			saw(ctx, at)
		}
		if !errors.Is(err, dr.ErrConflict) || try == 8 {
			return r, now, err
		}
		if err := sleep(ctx, time.Duration(try)*10*time.Millisecond); err != nil {
			return r, "", err
		}
	}
}

func (r *record) disk(id dr.DiskID) *diskRecord {
	for i := range r.Disks {
		if r.Disks[i].ID == id {
			return &r.Disks[i]
		}
	}
	return nil
}

// staged says that nothing of the machine is a managed disk or a machine yet.
func (r *record) staged() bool {
	return !slices.ContainsFunc(r.Disks, func(d diskRecord) bool { return d.Disk != "" })
}

func (r *record) moment(p dr.PointID) *moment {
	for i := range r.Moments {
		if m := &r.Moments[i]; m.Point == p && !m.Released && !m.Base && !m.Gone {
			return m
		}
	}
	return nil
}

func (r *record) at() place { return place{r.Group, r.Name} }
