package claims

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
)

// rivalEnv makes the test binary an engine in another process, with its state in
// this folder.
const rivalEnv = "LIFEBOAT_TEST_RIVAL_IN"

func engine(dir, journal string) (*embedded.Engine, error) {
	return embedded.Open(filepath.Join(dir, journal), embedded.Options{Claims: NewDir(filepath.Join(dir, "claims"), Options{}),
		BackoffFirst: time.Millisecond, BackoffMost: 10 * time.Millisecond})
}

func rival(dir string) error {
	e, err := engine(dir, "theirs")
	if err != nil {
		return err
	}
	defer e.Close()
	return enginetest.ServeRival(e, dir, os.Stdin, os.Stdout)
}

// TestEnginesTogether: two embedded engines of two processes, with a journal
// each, over the same claims.
func TestEnginesTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mine, err := engine(dir, "mine")
	require.NoError(t, err)
	defer mine.Close()
	enginetest.Together(t, mine, dir, func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), rivalEnv+"="+dir)
		return cmd
	})
}
