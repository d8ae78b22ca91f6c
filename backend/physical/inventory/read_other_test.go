//go:build !linux

package inventory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestOnlyLinuxIsRead(t *testing.T) {
	_, err := inventory.Read(t.Context(), inventory.Options{})
	require.ErrorIs(t, err, dr.ErrUnsupported)
}
