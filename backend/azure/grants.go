package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
)

// grants are the addresses by which this process reads snapshots' bytes. They
// are granted late, shared, and revoked when nobody reads any more: Azure gives
// at most five for all snapshots of a disk.
type grants struct {
	a  *Azure
	mu sync.Mutex
	m  map[string]*grant
}

// grant is one address. Its name is a snapshot's, or "collection/point/disk" of
// a restore point's disk.
type grant struct {
	mu    sync.Mutex // held while it is granted or revoked
	url   string
	until time.Time
	users int // guarded by grants.mu
}

func (g *grants) init(a *Azure) { g.a, g.m = a, map[string]*grant{} }

// snapshot returns an address to read by, and a function that must be called
// when it is no longer used, once at least.
func (g *grants) snapshot(ctx context.Context, name string) (url string, done func(), err error) {
	g.mu.Lock()
	x := g.m[name]
	if x == nil {
		x = &grant{}
		g.m[name] = x
	}
	x.users++
	g.mu.Unlock()
	done = sync.OnceFunc(func() { g.done(name, x) })
	if url, err = g.address(ctx, name, x); err != nil {
		done()
		return "", func() {}, err
	}
	return url, done, nil
}

// address is what there is, or a new one.
func (g *grants) address(ctx context.Context, name string, x *grant) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.url != "" && time.Until(x.until) >= g.a.opts.Grant/4 {
		return x.url, nil
	}
	if x.url != "" { // one that is still good isn't prolonged
		x.url = ""
		if err := g.take(ctx, name); err != nil {
			return "", err
		}
	}
	x.until = time.Now().Add(g.a.opts.Grant)
	url, err := g.give(ctx, name)
	if err != nil {
		if status, _ := codeOf(err); status < 400 || status >= 500 { // else it was refused
			clean, cancel := grace(ctx)
			defer cancel()
			g.ended(name, x, g.take(clean, name))
		}
		return "", err
	}
	x.url = url
	return url, nil
}

// ended tells of what could not be revoked.
func (g *grants) ended(name string, x *grant, err error) {
	if err != nil {
		g.a.opts.Log.Warn("an address to read a disk by could not be revoked; it ends by itself", "of", name, "until", x.until, "err", explain(err))
	}
}

// done revokes an address that nobody uses.
func (g *grants) done(name string, x *grant) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g.mu.Lock()
	x.users--
	last := x.users == 0
	if last && g.m[name] == x {
		delete(g.m, name)
	}
	g.mu.Unlock()
	if !last || x.url == "" {
		return
	}
	x.url = ""
	ctx, cancel := grace(context.Background())
	defer cancel()
	g.ended(name, x, g.take(ctx, name))
}

// drop forgets an address because what it is of is deleted.
func (g *grants) drop(ctx context.Context, name string) error {
	g.mu.Lock()
	x := g.m[name]
	g.mu.Unlock()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.url == "" {
		return nil
	}
	x.url = ""
	return g.take(ctx, name)
}

// stale forgets an address that the service refuses, for the next to be granted.
func (g *grants) stale(name, url string) {
	g.mu.Lock()
	x := g.m[name]
	g.mu.Unlock()
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.url == url {
		x.url = ""
	}
}

func (g *grants) close(ctx context.Context) error { return g.dropAll(ctx, "") }

// dropAll is drop for all names that begin so.
func (g *grants) dropAll(ctx context.Context, prefix string) error {
	g.mu.Lock()
	var names []string
	for name := range g.m {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	g.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, g.drop(ctx, name))
	}
	return errors.Join(errs...)
}

// used tells whether this process reads by an address of the name.
func (g *grants) used(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.m[name] != nil
}

func (g *grants) give(ctx context.Context, name string) (string, error) {
	data := armcompute.GrantAccessData{Access: to.Ptr(armcompute.AccessLevelRead), DurationInSeconds: to.Ptr(int32(g.a.opts.Grant / time.Second))}
	var sas string
	if set, point, disk, ok := restoreParts(name); ok {
		p, err := g.a.restored.BeginGrantAccess(ctx, g.a.opts.ResourceGroup, set, point, disk, data, nil)
		r, err := await(ctx, g.a, p, err)
		if err != nil {
			return "", tooMany(err)
		}
		sas = deref(r.AccessSAS)
	} else {
		p, err := g.a.snapshots.BeginGrantAccess(ctx, g.a.opts.ResourceGroup, name, data, nil)
		r, err := await(ctx, g.a, p, err)
		if err != nil {
			return "", tooMany(err)
		}
		sas = deref(r.AccessSAS)
	}
	if sas == "" {
		return "", fmt.Errorf("Azure granted no address to read %s by", name)
	}
	return sas, nil
}

// tooMany says that more addresses were asked for than Azure gives: its code
// says no more than that it isn't allowed.
func tooMany(err error) error {
	if status, code := codeOf(err); status == http.StatusConflict && code == "OperationNotAllowed" {
		r := remedies["ManagedDiskSasLimitExceeded"]
		return remedied(fmt.Errorf("%w: %w", r.sentinel, explain(err)), r.remedy)
	}
	return explain(err)
}

func (g *grants) take(ctx context.Context, name string) error {
	set, point, disk, ok := restoreParts(name)
	if !ok {
		return g.a.revokeSnapshot(ctx, name)
	}
	p, err := g.a.restored.BeginRevokeAccess(ctx, g.a.opts.ResourceGroup, set, point, disk, nil)
	if _, err := await(ctx, g.a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

// restoreParts takes the name of a restore point's disk apart.
func restoreParts(name string) (set, point, disk string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// read fills p from what a name stands for.
func (g *grants) read(ctx context.Context, name string, p []byte, off int64) error {
	return g.with(ctx, name, func(c *pageblob.Client, _ string) error {
		_, err := readPages(ctx, c, p, off)
		return err
	})
}

// with calls f with a client for the bytes, again with a new address if the one
// there was is refused.
func (g *grants) with(ctx context.Context, name string, f func(c *pageblob.Client, url string) error) error {
	for try := 0; ; try++ {
		url, done, err := g.snapshot(ctx, name)
		if err != nil {
			return err
		}
		c, err := pageblob.NewClientWithNoCredential(url, g.a.dataOptions())
		if err == nil {
			err = f(c, url)
		}
		if status, _ := codeOf(err); status == http.StatusForbidden && try == 0 {
			g.stale(name, url) // it has ended, or somebody revoked it
			done()
			continue
		}
		done()
		return explain(err)
	}
}
