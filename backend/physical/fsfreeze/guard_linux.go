package fsfreeze

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
)

// guardScript thaws when its standard input ends without "done": then the
// process at the other end is dead, with all its threads, and no freeze is
// under way any more. It is told what there is to undo before it is done:
//
//	fs N      the file system whose folder is open as N is being frozen
//	not N     it was not frozen by us
//	script P  the program P is being called with "freeze"
//	free      the file systems have thawed
//	done      so have the scripts
//
// All thaws of file systems start at once, in order: one that waits for another
// (a loop device's for that of the file below it) must not keep that from
// starting. Each has a timer for when the limit is over; it goes on trying, since
// a freeze that was under way then may end after the thaw. The guard ends by
// killing its session's group, and so the timers' sleeps.
const guardScript = `trap '' HUP INT TERM
limit=$1 tool=$2 time=$3 each=$4
fds= scripts=
thaw() {
	for fd in $fds; do "$tool" -u /proc/self/fd/$fd & done
}
still() {
	for fd in $fds; do eval "kill -9 \$timer$fd"; done
}
while read -r what arg; do
	case $what in
	fs)
		fds="$arg $fds"
		(sleep $limit; while :; do "$tool" -u /proc/self/fd/$arg; sleep 1; done) &
		eval "timer$arg=$!"
		;;
	not)
		eval "kill -9 \$timer$arg"
		rest=
		for fd in $fds; do [ $fd = $arg ] || rest="$rest $fd"; done
		fds=$rest
		;;
	script)
		scripts="$arg
$scripts"
		;;
	free) still; fds= ;;
	done) kill -9 0 ;;
	esac
done
still
thaw
wait
printf '%s' "$scripts" | while read -r p; do
	[ -z "$p" ] || "$time" -k 1 $each "$p" thaw </dev/null
done
kill -9 0
`

// guard is a process that thaws when this one dies.
type guard struct {
	cmd    *exec.Cmd
	mu     sync.Mutex
	in     io.WriteCloser
	exited chan struct{}
	first  uintptr // the number that the first of its folders has there
}

// startGuard starts it with the folders of all file systems that may be frozen.
func startGuard(e physical.Event, folders []*os.File, limit, each time.Duration) (*guard, error) {
	var tools [3]string
	for i, name := range []string{"sh", "fsfreeze", "timeout"} {
		path, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"} {
				if _, gone := os.Stat(dir + name); gone == nil {
					path, err = dir+name, nil
					break
				}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("the guard needs %s (install util-linux and coreutils, and see that PATH is set): %w", name, err)
		}
		tools[i] = path
	}
	g := &guard{exited: make(chan struct{}), first: 3}
	g.cmd = exec.Command(tools[0], "-c", guardScript, "lifeboat-freeze-guard", seconds(limit), tools[1], tools[2], seconds(each))
	g.cmd.Dir, g.cmd.Env = "/", environment(e, "thaw")
	g.cmd.ExtraFiles = folders
	// A session of its own: what is meant for our terminal's programs, or for
	// our process group, is not meant for it.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := g.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	g.in = in
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("the guard doesn't start: %w", err)
	}
	go func() {
		_ = g.cmd.Wait()
		close(g.exited)
	}()
	return g, nil
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(max(d.Seconds(), 0.1), 'f', 1, 64)
}

// say tells the guard a line. An error means that it is dead.
func (g *guard) say(line string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := io.WriteString(g.in, line+"\n"); err != nil {
		return fmt.Errorf("the guard that would thaw if this process died is gone: %w", err)
	}
	return nil
}

func (g *guard) freezing(i int) error { return g.say(fmt.Sprint("fs ", g.first+uintptr(i))) }
func (g *guard) notOurs(i int) error  { return g.say(fmt.Sprint("not ", g.first+uintptr(i))) }

// end lets the guard go, after everything has thawed.
func (g *guard) end() {
	_ = g.say("done")
	g.mu.Lock()
	g.in.Close()
	g.mu.Unlock()
	select {
	case <-g.exited:
	case <-time.After(time.Second):
	}
	// Whatever of its session is left, such as a timer.
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	<-g.exited
}
