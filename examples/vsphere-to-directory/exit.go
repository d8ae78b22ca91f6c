package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Exit codes; 3, 11 and 12 are restic's.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitIncomplete  = 3
	exitBusy        = 11
	exitPassphrase  = 12
	exitConnect     = 13
	exitInterrupted = 130
)

var (
	errIncomplete = errors.New("incomplete")
	errConnect    = errors.New("no connection")
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
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, errConnect):
		return exitConnect
	case errors.Is(err, vault.ErrWrongKey):
		return exitPassphrase
	case errors.Is(err, dr.ErrBusy):
		return exitBusy
	case errors.Is(err, errIncomplete):
		return exitIncomplete
	}
	return exitFailed
}

func message(err error) string {
	if exitCode(err) == exitInterrupted {
		return "interrupted"
	}
	return err.Error()
}
