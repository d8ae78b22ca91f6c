package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/imagedisk"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var serveCommand = command{
	name:  "serve",
	brief: "serve a recovery point as a network block device, to mount or boot",
	help: `Usage: vault serve --store DIR --machine NAME --listen ADDRESS [OPTION]...

Serves the disks of a recovery point over NBD, at once and without restoring
them first: for qemu, nbdcopy, nbd-client, or anything else that speaks NBD.
Each disk is an export of its name. Prints the URI of each on a line when it
can be connected to, and serves until SIGTERM or SIGINT, which let requests
under way finish.

Read-only, unless there is an overlay. With one the disks can be written, and
machines boot from them: what is written goes to the overlay, and the point
stays as it is. An overlay that exists is continued if it belongs to the same
disk of the same point, else refused.

While a point is served prune takes nothing that it needs.

Options:
  --machine NAME    the machine (required)
  --listen ADDRESS  unix:PATH or HOST:PORT (required). A socket at PATH is
                    open to the same user only. NBD asks nobody who they are:
                    everybody who reaches HOST:PORT reads the disks, so let it
                    be localhost, or a network that is closed.
  --point ID        the recovery point, as vault ls shows it; default: latest
  --disk DISK       this disk alone
  --overlay FILE    where writes go. If FILE is a folder that exists, or ends
                    in '/', each disk has its own file DISK.overlay there;
                    several disks need that.
  --store DIR, --passphrase-file FILE: see vault --help
`,
	setup: func(fs *flag.FlagSet) action {
		var o serveOptions
		o.flags(fs)
		fs.StringVar(&o.listen, "listen", "", "")
		fs.StringVar(&o.disk, "disk", "", "")
		fs.StringVar(&o.overlay, "overlay", "", "")
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store", "machine", "listen"); err != nil {
				return err
			}
			if len(args) > 0 {
				return wrongUsage("serve takes no arguments; see vault serve --help")
			}
			return o.run(ctx)
		}
	},
}

type serveOptions struct {
	pointOptions
	listen  string
	disk    string
	overlay string
}

func (o *serveOptions) run(ctx context.Context) (err error) {
	s, err := o.open(false, vault.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	img, err := o.openPoint(ctx, s)
	if err != nil {
		return err
	}
	defer img.Close()
	if img, err = pick(img, o.disk); err != nil {
		return err
	}
	p := img.Point()
	server := &nbd.Server{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	overlays := map[dr.DiskID]string{}
	if o.overlay != "" {
		if overlays, err = overlayFiles(p.Machine.Disks, o.overlay); err != nil {
			return err
		}
	}
	for _, d := range p.Machine.Disks {
		e := nbd.Export{
			Name:        string(d.ID),
			Description: fmt.Sprintf("disk %s of machine %s, point %s", d.ID, p.Machine.ID, p.ID),
			Device:      imagedisk.New(img, d, imagedisk.Options{}),
			ReadOnly:    true,
		}
		if file := overlays[d.ID]; file != "" {
			over, done, err := openOverlay(e.Device, file, fmt.Sprintf("%s/%s/%s", p.Machine.ID, p.ID, d.ID))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			e.Device, e.ReadOnly = over, false
		}
		server.Exports = append(server.Exports, e)
	}
	l, err := listen(o.listen)
	if err != nil {
		return err
	}
	for _, d := range p.Machine.Disks {
		fmt.Println(uri(l.Addr(), string(d.ID)))
	}
	return server.Serve(ctx, l)
}

// overlayFiles says where each disk's overlay is.
func overlayFiles(disks []dr.Disk, name string) (map[dr.DiskID]string, error) {
	paths, err := outputs(disks, name)
	var usage *usageError
	if errors.As(err, &usage) {
		return nil, wrongUsage("--overlay %s: %v: %s", name, usage, "let it be a folder, or pick a disk with --disk")
	}
	if err != nil {
		return nil, err
	}
	for id, path := range paths {
		if path != name {
			paths[id] = path + ".overlay"
		}
	}
	return paths, nil
}

// openOverlay opens or makes an overlay. done makes it durable and closes it.
func openOverlay(base nbd.Device, file, identity string) (_ *nbd.Overlay, done func() error, err error) {
	// The lock also makes the file.
	lock, err := fsys.OS().Lock(file, true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, nil, fmt.Errorf("%w: overlay %s is served by another process", dr.ErrBusy, file)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	over, err := nbd.OpenOverlay(base, nbd.OverlayOptions{File: f, Identity: identity})
	if err == nil {
		err = fsys.OS().SyncDir(filepath.Dir(file))
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("overlay %s: %w", file, err), f.Close(), lock.Close())
	}
	return over, func() error {
		return errors.Join(over.Flush(context.Background()), f.Close(), lock.Close())
	}, nil
}

// listen listens at unix:PATH or HOST:PORT. A socket that nobody listens at
// any more is replaced.
func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, wrongUsage("--listen %s: want unix:PATH or HOST:PORT", address)
		}
		return net.Listen("tcp", address)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		c, err := net.Dial("unix", path)
		if err == nil {
			// Not to trouble the one who listens, hear what it has to say.
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Read(make([]byte, 64))
			c.Close()
			return nil, fmt.Errorf("%w: somebody listens at %s", dr.ErrBusy, path)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// uri is as https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
// says.
func uri(a net.Addr, export string) string {
	u := url.URL{Scheme: "nbd", Host: a.String(), Path: "/" + export}
	if a.Network() == "unix" {
		u.Scheme, u.Host = "nbd+unix", ""
		u.RawQuery = url.Values{"socket": {a.String()}}.Encode()
		// Without a host the two slashes would be left out.
		return "nbd+unix://" + u.EscapedPath() + "?" + strings.ReplaceAll(u.RawQuery, "%2F", "/")
	}
	return u.String()
}
