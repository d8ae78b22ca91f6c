package memory

import (
	"context"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// SetNetworks says which networks there are, for backend.NetworkLister. Until
// then nothing is known of them. Prepare connects cards to any all the same.
func (b *Backend) SetNetworks(all ...backend.Network) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.networks = slices.Clone(all)
}

func (b *Backend) listNetworks(ctx context.Context) ([]backend.Network, error) {
	if err := b.enter(ctx, OpNetworks); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.networks == nil {
		return nil, &dr.Error{Op: "list networks", Err: dr.ErrUnsupported, Remedy: "say with SetNetworks which there are"}
	}
	return slices.Clone(b.networks), nil
}
