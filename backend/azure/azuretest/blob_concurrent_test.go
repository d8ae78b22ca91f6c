package azuretest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// Of those who change a blob if it is the one they read, one wins each round.
func TestOneOfManyWriters(t *testing.T) {
	c := ours(t, BlobOptions{}).container(t)
	b := c.NewBlockBlobClient("b")
	etag := put(t, b, "0")
	for range 10 {
		var won atomic.Int64
		g, ctx := errgroup.WithContext(t.Context())
		for range 8 {
			g.Go(func() error {
				_, err := b.Upload(ctx, body([]byte("x")), &blockblob.UploadOptions{AccessConditions: onlyIf(blob.ModifiedAccessConditions{IfMatch: &etag})})
				if err == nil {
					won.Add(1)
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		require.EqualValues(t, 1, won.Load())
		r, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		etag = *r.ETag
	}
}

// Many clients write, read, snapshot, compare, copy, list and delete at once;
// what each wrote where nobody else does is there at the end.
func TestManyClientsAtOnce(t *testing.T) {
	c := ours(t, BlobOptions{}).container(t)
	p := pageBlob(t, c, "shared", 4*mib)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const clients, rounds = 6, 25
	var want [clients][]byte
	g, ctx := errgroup.WithContext(t.Context())
	for i := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		g.Go(func() error {
			mine := int64(i) * 65536 / 2
			for round := range rounds {
				b := fill(byte(i*rounds+round), 4096)
				if _, err := p.UploadPages(ctx, body(b), blob.HTTPRange{Offset: mine, Count: 4096}, nil); err != nil {
					return fmt.Errorf("upload: %w", err)
				}
				want[i] = b
				if err := disturb(ctx, c, p, rng, fmt.Sprint("own", rng.IntN(3))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	for i := range clients {
		same(t, want[i], get(t, p, int64(i)*65536/2, 4096))
	}
}

// disturb does one thing or another that mustn't disturb.
func disturb(ctx context.Context, c *container.Client, p *pageblob.Client, rng *rand.Rand, name string) error {
	o := c.NewPageBlobClient(name)
	switch rng.IntN(6) {
	case 0:
		s, err := p.CreateSnapshot(ctx, nil)
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if _, err := p.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: s.Snapshot}).NextPage(ctx); err != nil {
			return fmt.Errorf("diff: %w", err)
		}
		at, err := p.WithSnapshot(*s.Snapshot)
		if err != nil {
			return err
		}
		if _, err := at.Delete(ctx, nil); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	case 1:
		r, err := p.DownloadStream(ctx, nil)
		if err != nil {
			return fmt.Errorf("download: %w", err)
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	case 2:
		_, err := o.StartCopyFromURL(ctx, p.URL(), nil)
		return err
	case 3:
		o.Delete(ctx, nil) // it may not be there
	case 4:
		_, err := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Include: container.ListBlobsInclude{Snapshots: true}}).NextPage(ctx)
		return err
	case 5:
		o.UploadPages(ctx, body(fill(9, 512)), blob.HTTPRange{Count: 512}, nil) // it may not be there
	}
	return nil
}

func BenchmarkUploadPages(b *testing.B) {
	c := benchContainer(b)
	p := c.NewPageBlobClient("disk")
	const size = 256 * mib
	if _, err := p.Create(b.Context(), size, nil); err != nil {
		b.Fatal(err)
	}
	data := fill(1, 4*mib)
	b.SetBytes(4 * mib)
	for i := 0; b.Loop(); i++ {
		off := int64(i) * 4 * mib % size
		if _, err := p.UploadPages(b.Context(), body(data), blob.HTTPRange{Offset: off, Count: 4 * mib}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	c := benchContainer(b)
	p := c.NewPageBlobClient("disk")
	if _, err := p.Create(b.Context(), 64*mib, nil); err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < 64*mib; off += 4 * mib {
		if _, err := p.UploadPages(b.Context(), body(fill(1, 4*mib)), blob.HTTPRange{Offset: off, Count: 4 * mib}, nil); err != nil {
			b.Fatal(err)
		}
	}
	var buf bytes.Buffer
	b.SetBytes(4 * mib)
	for i := 0; b.Loop(); i++ {
		buf.Reset()
		r, err := p.DownloadStream(b.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: int64(i) * 4 * mib % (64 * mib), Count: 4 * mib}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := buf.ReadFrom(r.Body); err != nil || buf.Len() != 4*mib {
			b.Fatal(err, buf.Len())
		}
		r.Body.Close()
	}
}

func benchContainer(b *testing.B) *container.Client {
	e := ours(b, BlobOptions{})
	c, err := e.ours.Container(b.Context(), "bench", "bench")
	if err != nil {
		b.Fatal(err)
	}
	return c
}
