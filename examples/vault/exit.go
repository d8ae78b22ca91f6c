package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Exit codes; those from 10 on are restic's.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitDamage      = 3
	exitNoStore     = 10
	exitBusy        = 11
	exitPassphrase  = 12
	exitInterrupted = 130
)

var (
	errDamage  = errors.New("damage was found")
	errNoStore = errors.New("there is no store")
)

// usageError is the caller's mistake, found before anything was done.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func wrongUsage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errDamage):
		return exitDamage
	case errors.Is(err, errNoStore):
		return exitNoStore
	case errors.Is(err, dr.ErrBusy):
		return exitBusy
	case errors.Is(err, vault.ErrWrongKey):
		return exitPassphrase
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

func message(err error) string {
	if exitCode(err) == exitInterrupted {
		return "interrupted"
	}
	return err.Error()
}
