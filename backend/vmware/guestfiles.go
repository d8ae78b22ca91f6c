package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// guestPrefix begins the names of our folders in guests.
	guestPrefix = "lifeboat-"
	// maxOutput bounds what is read out of a guest at once.
	maxOutput = 1 << 20
	// staleAfter is how old a folder of ours is that nobody can be using: no
	// script runs for longer than runLimit.
	staleAfter = time.Hour
)

// folder makes a folder of our own in the guest, which only its user can enter,
// in the place that is asked for or, "", the guest's own for such things.
// Folders that dead processes left there are removed.
func (d *door) folder(ctx context.Context, place string) (string, error) {
	var dir string
	err := d.ask(ctx, func() (err error) {
		dir, err = d.files.CreateTemporaryDirectory(ctx, d.auth, guestPrefix, "", place)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("make a folder in the guest: %w", err)
	}
	// What the guest says comes back as part of command lines.
	if !safePath(dir, d.os) {
		return "", fmt.Errorf("%w: the guest names its folder %q", dr.ErrInvalid, oneLine(dir))
	}
	d.sweep(ctx, dir)
	return dir, nil
}

// safePath tells whether a path is one that no shell takes apart.
func safePath(p, os string) bool {
	if p == "" || len(p) > 200 || strings.Contains(p, "..") {
		return false
	}
	other := "/-_."
	if os == windows {
		other = `\:-_.~ `
	}
	for _, c := range p {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(other, c)) {
			return false
		}
	}
	return true
}

func (d *door) slash() string {
	if d.os == windows {
		return `\`
	}
	return "/"
}

// sweep removes our folders beside dir that are too old to be in use. Times are
// compared with dir's, as the guest's clock is its own. It is no error if it
// can't.
func (d *door) sweep(ctx context.Context, dir string) {
	i := strings.LastIndex(dir, d.slash())
	if i <= 0 {
		return
	}
	parent, own := dir[:i], dir[i+1:]
	list, err := d.files.ListFiles(ctx, d.auth, parent, 0, 1000, "^"+guestPrefix)
	if err != nil {
		d.v.options.Log.DebugContext(ctx, "the guest's leftovers are unknown", "machine", d.m.id, "error", err)
		return
	}
	var now time.Time
	for _, f := range list.Files {
		if f.Path == own {
			now = changed(f)
		}
	}
	for _, f := range list.Files {
		// A guest that names other folders is not believed.
		if now.IsZero() || changed(f).IsZero() || now.Sub(changed(f)) < staleAfter || f.Type != string(types.GuestFileTypeDirectory) ||
			!strings.HasPrefix(f.Path, guestPrefix) || strings.ContainsAny(f.Path, `/\`) {
			continue
		}
		err := d.files.DeleteDirectory(ctx, d.auth, parent+d.slash()+f.Path, true)
		d.v.options.Log.InfoContext(ctx, "removed what a dead process left in the guest", "machine", d.m.id, "folder", oneLine(f.Path), "error", err)
	}
}

func changed(f types.GuestFileInfo) time.Time {
	if f.Attributes == nil {
		return time.Time{}
	}
	if t := f.Attributes.GetGuestFileAttributes().ModificationTime; t != nil {
		return *t
	}
	return time.Time{}
}

// tidyLimit bounds what is cleaned up after the caller has gone.
const tidyLimit = 30 * time.Second

// tidy removes a folder of ours, also when ctx is over.
func (d *door) tidy(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
	defer cancel()
	err := d.ask(ctx, func() error { return d.files.DeleteDirectory(ctx, d.auth, dir, true) })
	if err != nil && !isNotFound(err) {
		d.v.options.Log.WarnContext(ctx, "a folder is left in the guest; the next call removes it", "machine", d.m.id, "folder", dir, "error", err)
	}
}

// put writes a file in the guest.
func (d *door) put(ctx context.Context, name string, data []byte) error {
	var attributes types.BaseGuestFileAttributes = &types.GuestPosixFileAttributes{Permissions: 0o600}
	if d.os == windows {
		attributes = &types.GuestWindowsFileAttributes{}
	}
	return d.transfer(ctx, "write "+name, func() error {
		var to string
		err := d.ask(ctx, func() (err error) {
			to, err = d.files.InitiateFileTransferToGuest(ctx, d.auth, name, attributes, int64(len(data)), true)
			return err
		})
		if err != nil {
			return err
		}
		u, err := d.address(ctx, to)
		if err != nil {
			return err
		}
		p := soap.DefaultUpload
		p.ContentLength, p.Close = int64(len(data)), true
		return d.v.client.Upload(ctx, bytes.NewReader(data), u, &p)
	})
}

// get reads a file of the guest, up to maxOutput; more says that there is more.
func (d *door) get(ctx context.Context, name string) (data []byte, more bool, err error) {
	err = d.transfer(ctx, "read "+name, func() error {
		var info *types.FileTransferInformation
		err := d.ask(ctx, func() (err error) {
			info, err = d.files.InitiateFileTransferFromGuest(ctx, d.auth, name)
			return err
		})
		if err != nil {
			return err
		}
		if info.Size == 0 { // some hosts refuse to transfer nothing
			data = nil
			return nil
		}
		u, err := d.address(ctx, info.Url)
		if err != nil {
			return err
		}
		p := soap.DefaultDownload
		p.Close = true
		body, _, err := d.v.client.Download(ctx, u, &p)
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = io.ReadAll(io.LimitReader(body, maxOutput+1))
		return err
	})
	if len(data) > maxOutput {
		return data[:maxOutput], true, err
	}
	return data, false, err
}

// transfer moves a file, again when the way there failed: the whole file is
// written or read each time.
func (d *door) transfer(ctx context.Context, what string, move func() error) error {
	for n := 1; ; n++ {
		err := move()
		if err == nil {
			return nil
		}
		if n == retries || ctx.Err() != nil || !lost(err) || refused(err) {
			return fmt.Errorf("%s in the guest: %w", what, withoutURL(err))
		}
		select {
		case <-time.After(time.Duration(n) * firstAsk):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refused tells whether an error is an answer, which repeating won't change.
func refused(err error) bool {
	var x *explained
	return errors.As(err, &x)
}

// address is where a transfer goes. A host without a vCenter calls itself "*".
func (d *door) address(ctx context.Context, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%w: the address of a transfer", dr.ErrInvalid)
	}
	if u.Hostname() == "*" {
		u.Host = d.v.client.URL().Host
		return u, nil
	}
	return d.files.TransferURL(ctx, s) // which makes the host's certificate known
}
