package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Folder reads the disks of machines that are off straight from their
// datastore, by ranges of the file's HTTPS download. It needs nothing installed
// and can't write. A datastore without plain files (vSAN, vVols) is refused, as
// is a disk that has parents.
//
// # Not verified on
//
// What a real host answers has not been seen: the status for a locked file, how
// a datacenter inside a folder is named, whether every release honours Range.
// An answer that isn't exactly the range asked for is an error.
func Folder() Transport { return folder{} }

type folder struct{}

const (
	// folderPart bounds one request; longer reads are parts side by side.
	folderPart = 4 << 20
	// folderParallel bounds the requests of one disk under way.
	folderParallel = 4
	// folderPatience is how long the server may think about a request.
	folderPatience = 2 * time.Minute
	// folderTries is how often a range is asked for, when connections break.
	folderTries = 3
)

func (folder) String() string { return "folder" }

func (folder) refuse(d diskRef, write bool) string {
	switch {
	case write:
		return "files on a datastore can't be written in part"
	case d.running:
		return "the machine is running, and its host has the file locked"
	case d.delta:
		return "the disk has parents: it is spread over several files"
	case strings.EqualFold(d.place.kind, "vsan") || strings.EqualFold(d.place.kind, "vvol"):
		return "a datastore of type " + d.place.kind + " has no plain files"
	case !strings.HasSuffix(d.file, ".vmdk"):
		return fmt.Sprintf("%q is not the name of a disk", d.file)
	}
	return ""
}

func (folder) open(ctx context.Context, v *VSphere, d diskRef, _ bool) (device, error) {
	var p object.DatastorePath
	if !p.FromString(d.file) {
		return nil, fmt.Errorf("%q is not a path on a datastore", d.file)
	}
	u := *v.client.URL()
	u.User = nil
	u.Path = "/folder/" + strings.TrimSuffix(p.Path, ".vmdk") + "-flat.vmdk"
	u.RawQuery = url.Values{"dcPath": {d.place.datacenter}, "dsName": {p.Datastore}}.Encode()
	f := &folderFile{v: v, url: u.String(), name: strings.TrimSuffix(d.file, ".vmdk") + "-flat.vmdk", size: d.size,
		busy: semaphore.NewWeighted(folderParallel), http: folderClient(v)}
	f.life, f.end = context.WithCancelCause(context.Background())
	// Whether it is there, whole, and may be read, is better known now.
	var probe [1]byte
	if _, err := f.ReadAt(ctx, probe[:], 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// folderClient has the session's cookies and trust, and keeps a connection for
// each request that may be under way.
func folderClient(v *VSphere) *http.Client {
	t := v.client.Client.DefaultTransport().Clone()
	t.MaxIdleConnsPerHost = folderParallel
	t.ResponseHeaderTimeout = folderPatience
	c := v.client.Client.Client // a copy
	c.Transport = t
	return &c
}

// folderFile is a file on a datastore.
type folderFile struct {
	v         *VSphere
	http      *http.Client
	url, name string
	size      int64
	busy      *semaphore.Weighted
	life      context.Context
	end       context.CancelCauseFunc
	once      sync.Once
}

func (f *folderFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) <= folderPart {
		return f.part(ctx, p, off)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(folderParallel)
	for at := 0; at < len(p); at += folderPart {
		g.Go(func() error {
			_, err := f.part(ctx, p[at:min(len(p), at+folderPart)], off+int64(at))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// part reads one range, again from where it broke off.
func (f *folderFile) part(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.busy.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer f.busy.Release(1)
	if f.life.Err() != nil { // the read might be faster than its cancelling
		return 0, context.Cause(f.life)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(f.life, func() { cancel(context.Cause(f.life)) })()
	done, renewed := 0, false
	for try := 1; ; try++ {
		n, err := f.get(ctx, p[done:], off+int64(done))
		done += n
		switch {
		case err == nil:
			return done, nil
		case ctx.Err() != nil:
			return done, context.Cause(ctx)
		case errors.Is(err, errUnauthorized) && !renewed:
			// Any call finds out that the session is dead, and replaces it.
			renewed, try = true, 0
			if _, err := methods.GetCurrentTime(ctx, f.v.session); err != nil {
				return done, fmt.Errorf("read %s: %w", f.name, err)
			}
		case !errors.Is(err, errCut) || try >= folderTries && n == 0:
			return done, fmt.Errorf("read %s: %w", f.name, err)
		default:
			if n > 0 {
				try = 0
			}
			f.v.options.Log.DebugContext(ctx, "range asked for again", "file", f.name, "offset", off+int64(done), "error", err)
			select {
			case <-ctx.Done():
				return done, context.Cause(ctx)
			case <-time.After(time.Duration(try) * 100 * time.Millisecond):
			}
		}
	}
}

var (
	errUnauthorized = fmt.Errorf("the server does not accept the session: %w", fs.ErrPermission)
	// errCut is of the way: asking again may help.
	errCut = errors.New("the connection was cut")
)

// get asks once. What arrived counts, whatever came after it.
func (f *folderFile) get(ctx context.Context, p []byte, off int64) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return 0, bare(err)
	}
	last := off + int64(len(p)) - 1
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, last))
	res, err := f.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errCut, bare(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusPartialContent {
		io.CopyN(io.Discard, res.Body, 4<<10) // so that the connection can be used again
		return 0, f.explain(res)
	}
	want := fmt.Sprintf("bytes %d-%d/%d", off, last, f.size)
	if got := res.Header.Get("Content-Range"); got != want {
		return 0, advise(fmt.Errorf("the server sent %q instead of %q", got, want), "if the disk was resized, capture it again")
	}
	if res.ContentLength >= 0 && res.ContentLength != int64(len(p)) {
		return 0, fmt.Errorf("the server announces %d bytes for a range of %d", res.ContentLength, len(p))
	}
	n, err := io.ReadFull(res.Body, p)
	if err != nil {
		return n, fmt.Errorf("%w after %d of %d bytes: %w", errCut, n, len(p), bare(err))
	}
	return n, nil
}

// explain makes an answer that has no bytes an error.
func (f *folderFile) explain(res *http.Response) error {
	status := errors.New("the server answers " + strconv.Itoa(res.StatusCode) + " " + http.StatusText(res.StatusCode))
	switch code := res.StatusCode; code {
	case http.StatusOK:
		return errors.New("the server ignores ranges, and would send the whole file each time")
	case http.StatusUnauthorized:
		return advise(errUnauthorized, "check User and Password, and give the account the privilege Datastore.Browse on the datastore")
	case http.StatusForbidden:
		return advise(fmt.Errorf("%w: %w", fs.ErrPermission, status), "give the account the privileges Datastore.Browse and Datastore.FileManagement on the datastore")
	case http.StatusNotFound:
		return advise(fmt.Errorf("%w: %w", dr.ErrNotFound, status), "the disk has no plain file there, or it was moved or renamed meanwhile")
	case http.StatusRequestedRangeNotSatisfiable:
		return advise(fmt.Errorf("the file is shorter than the disk (its range is %q): %w", res.Header.Get("Content-Range"), status), "the disk was resized or replaced meanwhile: capture it again")
	case http.StatusInternalServerError:
		return advise(fmt.Errorf("%w: %w", dr.ErrBusy, status), "the host may have the file locked: is the machine off, and does nobody else use the disk?")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return advise(fmt.Errorf("%w: %w", dr.ErrBusy, status), "the server is overloaded: lower Options.PerHost")
	}
	return status
}

func (f *folderFile) Close() error {
	f.once.Do(func() {
		f.end(errors.New("the disk was closed"))
		f.http.Transport.(*http.Transport).CloseIdleConnections()
	})
	return nil
}

// bare takes the address out of an error: it may be a ticket.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
