package azuretest

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// blobFact is something true of Azure's Blob service.
type blobFact struct {
	name string
	// ours tells why Azurite isn't asked: what it lacks, or gets wrong.
	ours string
	show func(t *testing.T, e *blobEnv, c *container.Client)
}

// The service here, and Azurite as far as it can, do what Azure does.
func TestBlobFacts(t *testing.T) {
	var facts []blobFact
	for _, list := range [][]blobFact{containerFacts, blockFacts, pageFacts, snapshotFacts, copyFacts, leaseFacts} {
		facts = append(facts, list...)
	}
	t.Run("Blobs", func(t *testing.T) {
		e := ours(t, BlobOptions{})
		for _, f := range facts {
			t.Run(f.name, func(t *testing.T) { f.show(t, e, e.container(t)) })
		}
	})
	t.Run("Azurite", func(t *testing.T) {
		e := emulator(t)
		for _, f := range facts {
			t.Run(f.name, func(t *testing.T) {
				if f.ours != "" {
					t.Skip(f.ours)
				}
				f.show(t, e, e.container(t))
			})
		}
	})
}
