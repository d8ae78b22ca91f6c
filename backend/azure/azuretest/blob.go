package azuretest

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// BlobOptions are what a Blobs may be given.
type BlobOptions struct {
	// Clock tells the time of leases, snapshots and signatures; nil: time.Now.
	Clock func() time.Time
	// CopyPolls is how many times the state of a server-side copy is asked for
	// before it is no longer pending; 0: a copy is done when it is answered.
	CopyPolls int
}

// Blobs is a Blob service in this process, which unmodified clients of azblob
// talk to over HTTP. It keeps everything in memory, page blobs by what was
// written of them. All methods are safe for concurrent use, and each blob has a
// lock of its own.
//
// It refuses what Azure refuses, and by Azure's codes as far as they are
// documented: sizes, alignment, conditions, leases, names, signatures of account
// keys. Unlike Azurite it knows what changed between two snapshots of a page
// blob.
//
// What it can't show: it was never compared with the real service, only with
// the documentation and with Azurite; nothing is durable, and nothing is late:
// reads see each write at once, copies take polls and not time, a container's
// name is free as soon as it is deleted, and 60 MiB/s or 500 requests/s aren't
// enforced (use OnCall). Bearer tokens, and signatures by user delegation keys,
// are believed; of a shared access signature's terms, addresses and resource
// types aren't looked at. Names of metadata are kept in small letters. Append blobs, versions,
// soft deletion, immutability, tiers, encryption scopes, customer keys, queries
// and conditions on tags are answered 501. A read of more than 8 MiB isn't one
// moment of the blob if others write meanwhile.
type Blobs struct {
	*faults
	opts     BlobOptions
	server   *httptest.Server
	etags    atomic.Uint64
	requests atomic.Uint64

	mu       sync.RWMutex
	accounts map[string]*blobAccount
	grants   map[string]*blobGrant
}

// NewBlobs starts a Blob service on a free port of 127.0.0.1.
func NewBlobs(o BlobOptions) *Blobs { return newBlobs(o, &faults{}) }

// newBlobs starts one whose calls are counted with those of another service.
func newBlobs(o BlobOptions, f *faults) *Blobs {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	b := &Blobs{faults: f, opts: o, accounts: map[string]*blobAccount{}, grants: map[string]*blobGrant{}}
	b.server = httptest.NewServer(b.wrap(ServiceBlob, b))
	return b
}

// Close ends the service, after the requests under way.
func (b *Blobs) Close() { b.server.Close() }

// URL is the service's own, http://127.0.0.1:port.
func (b *Blobs) URL() string { return b.server.URL }

// Account returns the URL and the key of an account, and makes the account if
// it isn't there. The URL is URL()/name.
func (b *Blobs) Account(name string) (url, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[name]
	if a == nil {
		sum := sha512.Sum512([]byte("azuretest account " + name))
		a = &blobAccount{name: name, key: sum[:], containers: map[string]*blobContainer{}}
		b.accounts[name] = a
	}
	return b.URL() + "/" + name, base64.StdEncoding.EncodeToString(a.key)
}

// Container makes a container, and the account if it isn't there, and returns
// a client with the account's key. It fails if the container is there.
func (b *Blobs) Container(ctx context.Context, account, name string) (*container.Client, error) {
	url, key := b.Account(account)
	cred, err := container.NewSharedKeyCredential(account, key)
	if err != nil {
		return nil, err
	}
	c, err := container.NewClientWithSharedKeyCredential(url+"/"+name, cred, nil)
	if err != nil {
		return nil, err
	}
	if _, err := c.Create(ctx, nil); err != nil {
		return nil, err
	}
	return c, nil
}

func (b *Blobs) now() time.Time { return b.opts.Clock().UTC() }

func (b *Blobs) newETag() string { return fmt.Sprintf(`"0x8DE%012X"`, b.etags.Add(1)) }
