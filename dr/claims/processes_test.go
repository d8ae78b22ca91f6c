package claims

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/azbucket"
)

var kills = flag.Int("kills", 20, "how often TestProcesses kills a process, in each place")

// What makes the test binary one of the processes.
const (
	childEnv = "LIFEBOAT_TEST_CLAIMS_OF" // its owner's name
	placeEnv = "LIFEBOAT_TEST_CLAIMS_IN" // a directory, or a container's URL
	keyEnv   = "LIFEBOAT_TEST_CLAIMS_KEY"
	logEnv   = "LIFEBOAT_TEST_CLAIMS_LOG"
)

func TestMain(m *testing.M) {
	var err error
	if owner, dir := os.Getenv(childEnv), os.Getenv(rivalEnv); owner != "" {
		err = child(owner)
	} else if dir != "" {
		err = rival(dir)
	} else {
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func childClaims() (*Claims, error) {
	place := os.Getenv(placeEnv)
	if !strings.HasPrefix(place, "http") {
		return NewDir(place, Options{}), nil
	}
	account, key, _ := strings.Cut(os.Getenv(keyEnv), " ")
	cred, err := azblob.NewSharedKeyCredential(account, key)
	if err != nil {
		return nil, err
	}
	c, err := container.NewClientWithSharedKeyCredential(place, cred, &quick)
	if err != nil {
		return nil, err
	}
	return New(azbucket.New(c, azbucket.Options{}), Options{}), nil
}

// child claims and gives back until it is killed. Each claim that it has is a
// line in the log behind the Acquire, and another before the Release.
func child(owner string) error {
	c, err := childClaims()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(os.Getenv(logEnv), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Println("up")
	ctx := context.Background()
	for {
		resource := fmt.Sprint("m", rand.IntN(3))
		epoch, err := c.Acquire(ctx, resource, owner)
		if errors.Is(err, dr.ErrBusy) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(log, "has %s %s %d\n", resource, owner, epoch); err != nil {
			return err
		}
		time.Sleep(rand.N(3 * time.Millisecond))
		if _, err := fmt.Fprintf(log, "gives %s %s %d\n", resource, owner, epoch); err != nil {
			return err
		}
		if err := c.Release(ctx, resource, owner); err != nil {
			return err
		}
	}
}

// TestProcesses lets four processes race for three claims, and kills and starts
// them at random: a claim has one holder always, also one that was killed, and no
// epoch is another holding's.
func TestProcesses(t *testing.T) {
	for name, place := range map[string]func(t *testing.T) (place, key string){
		"directory": func(t *testing.T) (string, string) { return filepath.Join(t.TempDir(), "claims"), "" },
		"Azurite": func(t *testing.T) (string, string) {
			s := azurite.Start(t)
			return s.Container(t, "", func(*container.ClientOptions) {}).URL(), s.Account + " " + s.Key
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			where, key := place(t)
			race(t, where, key)
		})
	}
}

func race(t *testing.T, place, key string) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(log, nil, 0o600))
	var procs sync.WaitGroup
	turns := make(chan time.Duration) // how long the next one lives
	go func() {
		defer close(turns)
		for range *kills {
			turns <- time.Duration(20+rng.IntN(200)) * time.Millisecond
		}
	}()
	for i := range 4 {
		procs.Go(func() {
			for life := range turns {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), childEnv+"="+fmt.Sprint("owner", i), placeEnv+"="+place, keyEnv+"="+key, logEnv+"="+log)
				var stderr strings.Builder
				cmd.Stderr = &stderr
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				bufio.NewScanner(out).Scan()
				timer := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
				err = cmd.Wait()
				timer.Stop()
				if cmd.ProcessState.ExitCode() != -1 {
					t.Errorf("it did not end by a signal: %v: %s", err, stderr.String())
					return
				}
			}
		})
	}
	procs.Wait()
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	checkLog(t, string(text))
}

// checkLog plays the log back.
func checkLog(t *testing.T, text string) {
	type holding struct {
		owner string // "": given back, or about to be
		last  string
		epoch uint64
	}
	all := map[string]holding{}
	holdings := 0
	for line := range strings.Lines(text) {
		var verb, resource, owner string
		var epoch uint64
		_, err := fmt.Sscanf(line, "%s %s %s %d\n", &verb, &resource, &owner, &epoch)
		require.NoError(t, err, "%q", line)
		h := all[resource]
		switch {
		case verb == "gives":
			require.Equal(t, owner, h.owner, line)
			require.Equal(t, h.epoch, epoch, line)
			h.owner = ""
		case epoch == h.epoch:
			require.Equal(t, h.last, owner, "an epoch is one holding's: %s", line)
			h.owner = owner // it was killed before it gave it back
		default:
			require.Greater(t, epoch, h.epoch, line)
			require.Empty(t, h.owner, "who holds it gets the same epoch: %s", line)
			h = holding{owner, owner, epoch}
			holdings++
		}
		all[resource] = h
	}
	t.Logf("%d holdings", holdings)
	require.Greater(t, holdings, 5)
	require.NotEmpty(t, all)
}
