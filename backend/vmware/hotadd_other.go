//go:build !linux

package vmware

import (
	"context"
	"errors"
)

const guestDisks = false

func bootID() string { return "" }

func openGuestDisk(context.Context, string, bool) (BlockDevice, error) {
	return nil, errors.ErrUnsupported
}
