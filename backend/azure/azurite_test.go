package azure_test

import (
	"context"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
)

// The contract with the staging container in Azurite: Microsoft's own emulator
// of Blob storage, which knows leases, conditions and page blobs by code that is
// not ours. The Resource Manager and the managed disks are simulated. Azurite
// can't copy from a managed disk's address; so these copies are streamed.
func TestContractOnAzurite(t *testing.T) {
	server := azurite.Start(t)
	cc := server.Container(t, "")
	r := newRig(t, azuretest.Options{Limits: generous, Source: func(ctx context.Context, address string) (io.ReaderAt, int64, error) {
		u, err := url.Parse(address)
		if err != nil {
			return nil, 0, err
		}
		_, name, _ := strings.Cut(u.Path, cc.URL()[strings.LastIndexByte(cc.URL(), '/'):]+"/")
		b := cc.NewBlobClient(name)
		p, err := b.GetProperties(ctx, nil)
		if err != nil {
			return nil, 0, err
		}
		return readerAt{ctx, b}, *p.ContentLength, nil
	}})
	r.container, r.opts.Staging = cc, cc
	r.a = r.open(t)
	h := r.harness(t)
	h.Histories = 2
	backendtest.Run(t, h)
}

type readerAt struct {
	ctx context.Context
	b   *blob.Client
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.b.DownloadBuffer(r.ctx, p, &blob.DownloadBufferOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
	return int(n), err
}
