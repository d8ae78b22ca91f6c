package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// service is what the machine does once it is up.
type service struct {
	mu     sync.Mutex
	status guest.Status
	start  time.Time
}

// serve counts until somebody asks for a shutdown: then it returns nil.
func serve(s *screen) error {
	raw, err := os.ReadFile(guest.ConfigFile)
	if err != nil {
		return err
	}
	var c guest.Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("%s: %w", guest.ConfigFile, err)
	}
	host, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return err
	}
	name := strings.TrimSpace(string(host))
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	shutdown := watchPower()

	v := service{start: time.Now()}
	v.status.Host, v.status.Root, v.status.Firmware = name, os.Getenv("ROOT"), "bios"
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		v.status.Firmware = "uefi"
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		v.status.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	v.status.Replayed = replayed()
	s.say(guest.Journal, map[bool]string{false: "clean", true: "replayed"}[v.status.Replayed])

	counter, err := os.OpenFile(guest.CounterFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer counter.Close()
	ring, err := os.OpenFile(guest.RingFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer ring.Close()
	tally, err := guest.OpenTally(counter, ring, c.Ring)
	if err != nil {
		return err
	}
	whole, err := tally.Check()
	v.status.Ring = fmt.Sprintf("ok %d", whole)
	if err != nil {
		v.status.Ring = fmt.Sprintf("damaged %v", err)
	}
	s.say(guest.Ring, v.status.Ring)
	v.status.Recovered, v.status.Counter, v.status.Boots = tally.Value(), tally.Value(), tally.Boots()
	s.say(guest.Recovered, tally.Value())

	addr, err := connect(guest.NetworkFile)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(c.Port))))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go v.answer(conn)
		}
	}()
	s.say(guest.Serving, net.JoinHostPort(addr.String(), strconv.Itoa(int(c.Port))))
	if c.Hello != "" {
		go v.hello(c.Hello)
	}

	tick, say := time.NewTicker(c.Every), time.NewTicker(time.Second)
	s.say(guest.Counter, tally.Value())
	for {
		select {
		case <-shutdown:
			s.say(guest.Stopped, tally.Value())
			return nil
		case <-say.C:
			s.say(guest.Counter, tally.Value())
		case <-tick.C:
			n, err := tally.Next()
			if err != nil {
				return err
			}
			v.mu.Lock()
			v.status.Counter = n
			v.mu.Unlock()
		}
	}
}

func (v *service) now() guest.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.status
	st.Uptime = time.Since(v.start).Round(time.Millisecond).String()
	return st
}

// answer is as much of an HTTP/1.0 server as a number needs: net/http would
// be most of what the machine loads.
func (v *service) answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(io.LimitReader(conn, 16<<10))
	request, err := r.ReadString('\n')
	if err != nil {
		return
	}
	for { // a peer that still sends would get a reset instead of the answer
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimSpace(line) == "" {
			break
		}
	}
	code, kind, body := "200 OK", "text/plain", ""
	words := strings.Fields(request)
	switch {
	case len(words) < 2 || words[0] != "GET":
		code, body = "400 Bad Request", "only GET\n"
	case words[1] == "/":
		body = fmt.Sprintln(v.now().Counter)
	case words[1] == "/status":
		raw, _ := json.Marshal(v.now())
		kind, body = "application/json", string(raw)+"\n"
	default:
		code, body = "404 Not Found", "there are / and /status\n"
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", code, kind, len(body), body)
}

// hello tells a listener that the machine serves, until it took it.
func (v *service) hello(to string) {
	for ; ; time.Sleep(time.Second) {
		conn, err := net.DialTimeout("tcp4", to, 5*time.Second)
		if err != nil {
			continue
		}
		raw, _ := json.Marshal(v.now())
		_, err = conn.Write(append(raw, '\n'))
		if closing := conn.Close(); err == nil && closing == nil {
			return
		}
	}
}

// replayed tells whether the kernel's log says that ext4 had to recover.
func replayed() bool {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EPIPE { // the oldest lines went meanwhile
			continue
		}
		if err != nil || n <= 0 {
			return false
		}
		if line := string(buf[:n]); strings.Contains(line, "EXT4-fs") && strings.Contains(line, "recovery complete") {
			return true
		}
	}
}
