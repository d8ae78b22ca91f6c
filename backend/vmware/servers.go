package vmware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/soap"

	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// DiskServer serves a disk of a virtual machine over NBD: a program that has a
// way to its bytes which this package has not. [VDDK] is one. [Servers] makes a
// [Transport] of it.
//
// # Not verified on
//
// In tests the servers are nbdkit with its file plugin and the simulator's own;
// no server that reads a real datastore has been used.
type DiskServer interface {
	// ServeDisk makes the disk reachable at an NBD URI, as the only disk of
	// that export, until stop is called. ctx bounds the start only. The size of
	// the export is the disk's, to the byte. If it isn't ReadOnly, the server
	// must offer flushes, and what was flushed must survive it.
	//
	// stop is called once, after the last connection was closed; it ends
	// everything that ServeDisk began and gives back whatever locks the disk.
	// An error of it says that something may be left over. With an error
	// nothing is left, and stop is nil.
	//
	// Neither the URI nor an error may hold the password. ServeDisk is called
	// concurrently, for one disk also.
	ServeDisk(ctx context.Context, r DiskRequest) (uri string, stop func() error, err error)
}

// DiskRequest says which disk to serve, and how to get at it. It is safe to
// print and to log.
type DiskRequest struct {
	// Server is the vCenter's or host's name or address, Port where it isn't 443.
	Server string
	Port   int
	// User and Password log in there.
	User     string
	Password Secret
	// Thumbprint is the SHA-1 of the server's certificate, as VDDK wants it:
	// "AB:CD:..."; the certificate was verified as Options say.
	Thumbprint string
	// VM is the machine's managed object ID ("vm-42"), Snapshot that of the
	// snapshot whose frozen bytes are meant. Without it the machine is off and
	// its own disk is meant.
	VM, Snapshot string
	// File is the disk as the snapshot or the machine names it, "[datastore]
	// folder/name.vmdk"; Size is in bytes.
	File string
	Size int64
	// ReadOnly forbids writes.
	ReadOnly bool
}

// Secret is a password that prints as "(secret)": by fmt with any verb, also
// inside other values, in JSON and in slog.
type Secret struct{ value *string }

// NewSecret hides a password.
func NewSecret(password string) Secret { return Secret{&password} }

// Reveal returns the password.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// String returns "(secret)", and nothing of it.
func (Secret) String() string { return "(secret)" }

// GoString returns "(secret)".
func (s Secret) GoString() string { return s.String() }

// MarshalText returns "(secret)".
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Servers makes a transport of whoever serves disks over NBD. Reads go over up
// to four connections if the server allows it, and are sent again over a new
// one if it was lost for at most half a minute; a lost connection of a disk
// that is written is an error, and the copy starts again.
func Servers(s DiskServer) Transport {
	if t, ok := s.(Transport); ok {
		return t
	}
	return servers{s}
}

type servers struct{ DiskServer }

func (k servers) String() string {
	if n, ok := k.DiskServer.(fmt.Stringer); ok {
		return n.String()
	}
	return fmt.Sprintf("servers (%T)", k.DiskServer)
}

func (servers) refuse(d diskRef, write bool) string { return refuseServed(d, write) }

// refuseServed refuses what no server can be right with.
func refuseServed(d diskRef, write bool) string {
	switch {
	case write && d.snapshot != nil:
		return "a snapshot can't be written"
	case d.snapshot == nil && d.running:
		return "the machine is running, and there is no snapshot of it to read"
	}
	return ""
}

func (k servers) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	r, err := v.diskRequest(ctx, d, write, "")
	if err != nil {
		return nil, err
	}
	uri, stop, err := k.ServeDisk(ctx, r)
	if err != nil {
		return nil, scrub(fmt.Errorf("%s could not serve the disk: %w", k, err), r.Password)
	}
	c := nbdConn{uri: uri, connections: 4, size: d.size, write: write, log: v.options.Log}
	if !write {
		c.reconnect = 30 * time.Second
	}
	client, err := c.dial(ctx)
	if err != nil {
		return nil, scrub(errors.Join(err, stop()), r.Password)
	}
	s := &served{client: client, stop: stop, secret: r.Password}
	return s.open(write), nil
}

// diskRequest says in a server's words which disk is meant. thumbprint wins
// over what Options say and what the server shows.
func (v *VSphere) diskRequest(ctx context.Context, d diskRef, write bool, thumbprint string) (DiskRequest, error) {
	u := v.client.URL()
	r := DiskRequest{Server: u.Hostname(), User: v.options.User, Password: NewSecret(v.options.Password),
		VM: d.vm.Value, File: d.file, Size: d.size, ReadOnly: !write}
	r.Port, _ = strconv.Atoi(u.Port())
	if r.Port == 443 {
		r.Port = 0
	}
	if d.snapshot != nil {
		r.Snapshot = d.snapshot.Value
	}
	const sha1Hex = 20*3 - 1
	switch {
	case thumbprint != "":
		r.Thumbprint = thumbprint
	case len(v.options.Thumbprint) == sha1Hex:
		r.Thumbprint = strings.ToUpper(v.options.Thumbprint)
	default:
		var err error
		if r.Thumbprint, err = v.thumbprint(ctx); err != nil {
			return r, fmt.Errorf("the thumbprint of the server's certificate could not be read: %w", err)
		}
	}
	return r, nil
}

// thumbprint is the SHA-1 of the certificate that the server shows, once it was
// verified as for any other call.
func (v *VSphere) thumbprint(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, v.client.URL().String(), nil)
	if err != nil {
		return "", bare(err)
	}
	res, err := v.client.Client.Client.Do(req)
	if err != nil {
		return "", bare(err)
	}
	res.Body.Close()
	if res.TLS == nil || len(res.TLS.PeerCertificates) == 0 {
		return "", errors.New("the connection isn't TLS")
	}
	return soap.ThumbprintSHA1(res.TLS.PeerCertificates[0]), nil
}

// nbdConn is how to reach a server that was started.
type nbdConn struct {
	uri         string
	connections int
	reconnect   time.Duration
	size        int64
	write       bool
	log         *slog.Logger
}

func (c nbdConn) dial(ctx context.Context) (*nbd.Client, error) {
	o, err := nbd.ParseURI(c.uri)
	if err != nil {
		return nil, fmt.Errorf("the server is at an address that makes no sense: %w", err)
	}
	o.Connections, o.Reconnect, o.Log = c.connections, c.reconnect, c.log
	// A server may first log in to vSphere and open the disk there.
	o.HandshakeTimeout = 2 * time.Minute
	client, err := nbd.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	info := client.Info()
	switch {
	case info.Size != c.size:
		err = fmt.Errorf("the server shows %d bytes, and the disk has %d: it serves another disk, or the disk was resized meanwhile", info.Size, c.size)
	case c.write && info.ReadOnly:
		err = errors.New("the server refuses writes: start it writable")
	case c.write && !info.CanFlush:
		err = errors.New("the server can't flush, so nothing that is written to it would be certain to stay")
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// served is a disk that a server shows.
type served struct {
	client *nbd.Client
	stop   func() error
	secret Secret
	// chunk bounds a request; 0: as the server says.
	chunk int
	// why makes more of an error, with what is known of the server.
	why func(error) error

	once   sync.Once
	failed error
}

// open is s as what it was opened for.
func (s *served) open(write bool) device {
	if write {
		return &servedWritable{s}
	}
	return s
}

func (s *served) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.each(ctx, p, off, s.client.ReadAt)
}

// each does f in requests that are not too long.
func (s *served) each(ctx context.Context, p []byte, off int64, f func(context.Context, []byte, int64) (int, error)) (int, error) {
	step := cmp.Or(s.chunk, max(len(p), 1))
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+step)]
		n, err := f(ctx, part, off+int64(done))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done + n, s.explain(ctx, err)
		}
		done += n
	}
	return len(p), nil
}

func (s *served) explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if s.why != nil {
		err = s.why(err)
	}
	return scrub(err, s.secret)
}

// Extents tells what reads as zeros.
func (s *served) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		for e, err := range s.client.Extents(ctx, off, n) {
			if !yield(e, s.explain(ctx, err)) || err != nil {
				return
			}
		}
	}
}

func (s *served) Close() error {
	s.once.Do(func() {
		s.client.Close()
		s.failed = scrub(s.stop(), s.secret)
	})
	return s.failed
}

type servedWritable struct{ *served }

func (s *servedWritable) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.each(ctx, p, off, s.client.WriteAt)
}

func (s *servedWritable) Zero(ctx context.Context, off, n int64) error {
	err := s.client.Zero(ctx, off, n)
	if errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return s.explain(ctx, err)
}

func (s *servedWritable) Flush(ctx context.Context) error {
	return s.explain(ctx, s.client.Flush(ctx))
}

// scrub makes an error safe to show: what it says and wraps stays, the password
// goes.
func scrub(err error, secret Secret) error {
	if err == nil || secret.Reveal() == "" || !strings.Contains(err.Error(), secret.Reveal()) {
		return err
	}
	var x *explained
	if errors.As(err, &x) {
		return advise(&scrubbed{err, secret}, x.remedy)
	}
	return &scrubbed{err, secret}
}

type scrubbed struct {
	err    error
	secret Secret
}

func (s *scrubbed) Error() string {
	return strings.ReplaceAll(s.err.Error(), s.secret.Reveal(), s.secret.String())
}

// Is looks into the error without giving it out.
func (s *scrubbed) Is(target error) bool { return errors.Is(s.err, target) }

// advise adds what a person can do about an error.
func advise(err error, remedy string) error {
	if err == nil || remedy == "" {
		return err
	}
	return &explained{err: err, remedy: remedy}
}
