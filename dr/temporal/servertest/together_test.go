package servertest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// rivalEnv makes the test binary an embedded engine in another process, with its
// state in this folder.
const rivalEnv = "LIFEBOAT_TEST_RIVAL_IN"

// It is looked at before TestMain, because the rival needs no server.
func init() {
	dir := os.Getenv(rivalEnv)
	if dir == "" {
		return
	}
	if err := rival(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func shared(dir string) *claims.Claims {
	return claims.NewDir(filepath.Join(dir, "claims"), claims.Options{})
}

func rival(dir string) error {
	e, err := embedded.Open(filepath.Join(dir, "journal"), embedded.Options{Claims: shared(dir), BackoffFirst: time.Millisecond, BackoffMost: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	defer e.Close()
	return enginetest.ServeRival(e, dir, os.Stdin, os.Stdout)
}

// TestEmbeddedAndTemporalTogether: a run of an embedded engine, in a process that
// is killed and started again, and one on Temporal never hold one machine.
func TestEmbeddedAndTemporalTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newLink().dial(t)
	defer c.Close()
	mine, err := temporal.Open(c, temporal.Options{Claims: shared(dir), Queue: "together" + rand.Text(), BackoffFirst: time.Millisecond, BackoffMost: 10 * time.Millisecond})
	require.NoError(t, err)
	defer mine.Close()
	enginetest.Together(t, mine, dir, func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), rivalEnv+"="+dir)
		return cmd
	})
}
