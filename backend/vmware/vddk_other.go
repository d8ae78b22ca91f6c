//go:build !unix

package vmware

import (
	"errors"
	"log/slog"
)

const vddkSupported = false

func (k *VDDK) spawn(*nbdkit, DiskRequest, *slog.Logger) error {
	return errors.New("nbdkit's vddk plugin is for Linux")
}
