package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// childEnv tells the test binary to be a process of an engine.
const childEnv = "LIFEBOAT_MATRIX"

func TestMain(m *testing.M) {
	if raw := os.Getenv(childEnv); raw != "" {
		var j job
		err := json.Unmarshal([]byte(raw), &j)
		if err == nil {
			err = j.work()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// job is what a process of an engine does: it serves, starts the run if nobody
// has, answers its gate when it may, and leaves when the run has ended.
type job struct {
	Place   place
	Run     dr.RunID
	Fails   bool
	Kill    kill          `json:",omitzero"`
	Takes   time.Duration // an action
	Address string        // of Temporal; "": embedded
	Queue   string
}

// heartbeat is how soon Temporal's workers are taken for lost.
const heartbeat = time.Second

func (j job) open(ctx context.Context) (dr.Orchestrator, func(), error) {
	if j.Address == "" {
		e, err := embedded.Open(j.Place.file("journal"), embedded.Options{BackoffFirst: time.Millisecond})
		if err != nil {
			return nil, nil, err
		}
		return e, func() { e.Close() }, nil
	}
	codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "test", Secret: make([]byte, 32)}}})
	if err != nil {
		return nil, nil, err
	}
	c, err := temporal.Connect(ctx, temporal.ConnectOptions{Address: j.Address, Codec: codec, DialTimeout: 2 * time.Second})
	if err != nil {
		return nil, nil, err
	}
	e, err := temporal.Open(c, temporal.Options{Claims: claims.NewDir(j.Place.file("claims"), claims.Options{}), Queue: j.Queue,
		Heartbeat: heartbeat, BackoffFirst: time.Millisecond, Converter: codec.DataConverter()})
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return e, func() { e.Close(); c.Close() }, nil
}

func (j job) work() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o, done, err := j.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	served := make(chan error, 1)
	go func() { served <- o.Serve(ctx, j.Place.actions(j.Takes, j.Kill)) }()
	for started := false; ; {
		select {
		case err := <-served:
			return err
		case <-time.After(20 * time.Millisecond):
		}
		call, cancelCall := context.WithTimeout(ctx, 3*time.Second)
		if !started {
			err := o.Start(call, j.Run, plan(j.Fails))
			started = err == nil || errors.Is(err, dr.ErrRunExists)
		}
		s, err := o.Status(call, j.Run)
		if gate, _ := s.Step("gate"); err == nil && gate.State == dr.StepWaiting {
			j.Place.mark("gate waits")
			if j.Place.marked("approved") {
				_ = o.Decide(call, j.Run, "gate", dr.Decision{Verdict: dr.Approve, By: "test"}) // asked again if it failed
			}
		}
		cancelCall()
		if err == nil && s.State.Ended() {
			cancel()
			<-served
			raw, err := json.Marshal(s)
			if err != nil {
				return err
			}
			half := j.Place.file(fmt.Sprint("ended.", os.Getpid()))
			if err := os.WriteFile(half, raw, 0o600); err != nil {
				return err
			}
			return os.Rename(half, j.Place.file("ended")) // read as soon as it is there
		}
	}
}

// mark leaves a sign for other processes.
func (p place) mark(sign string) {
	if !p.marked(sign) {
		_ = os.WriteFile(p.file("mark "+sign), nil, 0o600) // a sign that is missing makes the test wait in vain
	}
}

func (p place) marked(sign string) bool {
	_, err := os.Stat(p.file("mark " + sign))
	return err == nil
}

// process is a job's, which is begun again whenever it dies, as systemd would.
type process struct {
	t      *testing.T
	job    job
	cancel context.CancelFunc
	over   chan struct{}
	pids   chan *os.Process // the one that runs
	lives  int
	said   strings.Builder
}

func (j job) run(t *testing.T) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{t: t, job: j, cancel: cancel, over: make(chan struct{}), pids: make(chan *os.Process, 1)}
	go p.keep(ctx)
	t.Cleanup(func() {
		cancel()
		<-p.over
	})
	return p
}

func (p *process) keep(ctx context.Context) {
	defer close(p.over)
	raw, err := json.Marshal(p.job)
	if err != nil {
		panic(err)
	}
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
		cmd.Stderr, cmd.Stdout = &p.said, &p.said
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		p.lives++
		p.pids <- cmd.Process
		err := cmd.Wait()
		select {
		case <-p.pids:
		default: // it is being killed
		}
		if err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// die kills the process that runs, if one does.
func (p *process) die() bool {
	select {
	case proc := <-p.pids:
		p.job.Place.note("fault", nil)
		_ = proc.Kill()
		return true
	default:
		return false
	}
}

func (p *process) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// patience is how long anything may take before it counts as never.
const patience = 90 * time.Second

// until waits.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); {
		if time.Now().After(end) {
			require.Fail(t, "it doesn't come to that", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
