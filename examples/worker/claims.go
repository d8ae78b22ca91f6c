package main

import (
	"context"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/azbucket"
)

// openClaims opens claims that lie beside the recovery site: dir:FOLDER, or
// azblob:https://ACCOUNT.blob.core.windows.net/CONTAINER with the identity that
// Azure's default chain finds.
func openClaims(scheme, where string) (dr.Claims, error) {
	if where == "" {
		return nil, fmt.Errorf("%w: %s: of nothing", dr.ErrInvalid, scheme)
	}
	if scheme == "dir" {
		return claims.NewDir(where, claims.Options{}), nil
	}
	who, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, err
	}
	// A connection that died without a word must not hold a claim for minutes.
	c, err := container.NewClient(where, who, &container.ClientOptions{ClientOptions: azcore.ClientOptions{Retry: policy.RetryOptions{TryTimeout: 20 * time.Second}}})
	if err != nil {
		return nil, fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	return claims.New(azbucket.New(c, azbucket.Options{}), claims.Options{}), nil
}

// probeClaims reports whether claims answer: the end of one that nobody has
// changes nothing.
func probeClaims(ctx context.Context, c dr.Claims) error {
	return c.Release(ctx, "readiness-probe", "readiness-probe")
}
