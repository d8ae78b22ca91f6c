package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// qemuSays is QEMU's side of the control protocol: lines, and answers to commands.
func qemuSays(t *testing.T, answer func(command, id string) string) (*monitor, func(string)) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	go func() {
		_, _ = io.WriteString(theirs, `{"QMP": {"version": {}, "capabilities": []}}`+"\n")
		d := json.NewDecoder(theirs)
		for {
			var c struct {
				Execute string
				ID      string
			}
			if d.Decode(&c) != nil {
				return
			}
			if s := answer(c.Execute, c.ID); s != "" {
				go func() { _, _ = io.WriteString(theirs, s+"\n") }()
			}
		}
	}()
	var events []string
	q, err := newMonitor(within(t, 10*time.Second), ours, func(e Event) { events = append(events, e.Name) })
	require.NoError(t, err)
	t.Cleanup(q.close)
	return q, func(s string) { _, _ = io.WriteString(theirs, s+"\n") }
}

func TestControlProtocol(t *testing.T) {
	q, say := qemuSays(t, func(command, id string) string {
		switch command {
		case "refused":
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %q}`, id)
		case "silent":
			return ""
		}
		return fmt.Sprintf(`{"return": %q, "id": %q}`, command, id)
	})
	b, err := q.Do(t.Context(), "stop", nil)
	require.NoError(t, err)
	require.JSONEq(t, `"stop"`, string(b))
	_, err = q.Do(t.Context(), "refused", nil)
	require.EqualError(t, err, "QEMU refuses refused: no")
	ctx := within(t, 20*time.Millisecond)
	_, err = q.Do(ctx, "silent", nil)
	require.ErrorIs(t, err, ctx.Err())
	say(`{"return": {}, "id": "4711"}`) // an answer that nobody waits for
	_, err = q.Do(t.Context(), "cont", nil)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := q.Do(t.Context(), "silent", nil)
		ended <- err
	}()
	require.Eventually(t, func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.waiting) == 1
	}, time.Minute, time.Millisecond)
	say("not the protocol")
	require.ErrorIs(t, <-ended, ErrEnded)
	_, err = q.Do(t.Context(), "cont", nil)
	require.ErrorIs(t, err, ErrEnded)
}

func TestIsolatedNetworksHaveRoom(t *testing.T) {
	for _, s := range []string{"", "10.0.2.2/24", "192.168.7.1/28", "192.168.7.14/28", "172.16.255.254/12", "10.1.2.254/24"} {
		n := NIC{}
		if s != "" {
			n.Guest = netip.MustParsePrefix(s)
		}
		net := n.network()
		seen := map[netip.Addr]bool{}
		for _, a := range []netip.Addr{net.guest, net.host, net.dns, net.hello} {
			require.True(t, net.prefix.Contains(a), "%s: %s", s, a)
			require.False(t, seen[a], "%s: %s twice", s, a)
			seen[a] = true
			require.NotEqual(t, net.prefix.Addr(), a)
		}
		if s != "" {
			require.Equal(t, n.Guest.Addr(), net.guest)
		}
	}
	require.Equal(t, "10.0.2.100", NIC{Guest: netip.MustParsePrefix("10.0.2.15/24")}.network().hello.String())
	require.False(t, Static(dr.NIC{Addresses: []string{"fe80::1/64", "10.0.0.1", "10.0.0.1/30"}}).IsValid())
	require.False(t, Static(dr.NIC{DHCP: true, Addresses: []string{"10.0.0.1/24"}}).IsValid())
	require.Equal(t, "10.0.0.1/24", Static(dr.NIC{Addresses: []string{"fe80::1/64", "10.0.0.1/24"}}).String())
}

func TestConsoleIsCleanAndBounded(t *testing.T) {
	var lines []string
	tail := newTail(func(s string) { lines = append(lines, s) })
	_, _ = tail.Write([]byte("\x1b[2J\x1b[01;01Hone\r\ntw"))
	_, _ = tail.Write([]byte("o\r\n\x07\x9b\xff"))
	text, _ := tail.Text()
	require.Equal(t, "one\ntwo\n\ufffd", text)
	require.Len(t, lines, 2)
	for range 100 {
		_, _ = tail.Write(bytes.Repeat([]byte{'x'}, 10_000))
	}
	text, _ = tail.Text()
	require.Len(t, text, tailSize)
	require.LessOrEqual(t, cap(tail.buf), 2*tailSize)
	require.LessOrEqual(t, len(lines[len(lines)-1]), longestLine)
}

func ppm(w, h int) []byte {
	return append(fmt.Appendf(nil, "P6\n%d %d\n255\n", w, h), bytes.Repeat([]byte{1, 2, 3}, w*h)...)
}

func FuzzScreen(f *testing.F) {
	f.Add(ppm(3, 2))
	f.Add([]byte("P6\n16384 512\n255\n"))
	f.Add([]byte("P6 -1 1 255 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := readPPM(bytes.NewReader(b))
		if err != nil {
			return
		}
		r := img.Bounds()
		require.LessOrEqual(t, r.Dx()*r.Dy()*3, len(b), "no pixel without its bytes")
	})
}

func TestScreen(t *testing.T) {
	img, err := readPPM(bytes.NewReader(ppm(3, 2)))
	require.NoError(t, err)
	require.Equal(t, image.Rect(0, 0, 3, 2), img.Bounds())
	require.Equal(t, color.RGBA{1, 2, 3, 255}, img.At(2, 1))
	for _, bad := range []string{"", "P5\n1 1\n255\nxxx", "P6\n1 1\n65535\nxxxxxx", "P6\n1 1\n255\nxx", "P6\n0 1\n255\n", "P6\n100000 1\n255\n"} {
		_, err := readPPM(strings.NewReader(bad))
		require.Error(t, err, "%q", bad)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}` + "\n" + `{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}, "timestamp": {}}`))
	f.Add([]byte(`{"return": {}, "id": "1"}` + "\n" + `{"error": {"class": "x", "desc": "y"}, "id": "2"}`))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": 4}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Config{Dir: "/"}.withDefaults()
		require.NoError(t, err)
		m := newMachine(c)
		err = messages(bytes.NewReader(b), func(x message) error {
			if x.Name != "" {
				m.event(x.Event)
			}
			return nil
		})
		require.Error(t, err, "it ends")
	})
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("Kernel panic - not syncing: x\r\n"), 3)
	f.Add([]byte("\x1b[31mred\x1b[0m\xff\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		c, err := Config{Dir: "/"}.withDefaults()
		require.NoError(t, err)
		m := newMachine(c)
		cut = min(max(cut, 0), len(b))
		_, _ = m.serial.Write(b[:cut])
		_, _ = m.serial.Write(b[cut:])
		s := m.Console()
		require.True(t, utf8.ValidString(s))
		require.NotContains(t, s, "\x1b")
	})
}
