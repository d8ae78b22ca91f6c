package embedded

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
)

// state is a journal file.
type state struct {
	path string
	o    Options
	e    *Engine
}

var errKilled = errors.New("killed")

func newState(t enginetest.T, o Options) *state {
	o.BackoffFirst, o.BackoffMost = time.Millisecond, 4*time.Millisecond
	return &state{path: filepath.Join(t.TempDir(), "journal"), o: o}
}

func (s *state) Open() (o dr.Orchestrator, err error) {
	s.e, err = Open(s.path, s.o)
	return s.e, err
}

func (s *state) Kill() {
	if s.e != nil {
		s.e.fail(errKilled)
		s.e.Close()
	}
}

func TestContract(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t enginetest.T) enginetest.State { return newState(t, Options{}) })
}

func TestContractWithOtherClaims(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t enginetest.T) enginetest.State {
		shared := openT(t, filepath.Join(t.TempDir(), "claims"))
		return newState(t, Options{Claims: shared})
	})
}

func TestClaims(t *testing.T) {
	enginetest.Claims(t, func(t enginetest.T) dr.Claims { return openT(t, filepath.Join(t.TempDir(), "journal")) })
}

func TestRecords(t *testing.T) {
	enginetest.Records(t, func(t enginetest.T) dr.Records { return openT(t, filepath.Join(t.TempDir(), "journal")) })
}

func openT(t enginetest.T, path string) *Engine {
	e, err := Open(path, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}
