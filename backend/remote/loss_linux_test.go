package remote

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// lose lets the kernel drop that part of the packets that reach the replicator's
// host, or the agent's, until the test ends. A kernel without netem can do it with a
// program of six instructions at the cable's end.
func (w *wires) lose(ns string, part float64) {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	args := append(within(ns), self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LIFEBOAT_TEST_ROLE=lose", "LIFEBOAT_TEST_JOB="+strconv.FormatFloat(part, 'g', -1, 64))
	in, err := cmd.StdinPipe()
	require.NoError(w.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if said, _ := bufio.NewReader(out).ReadString('\n'); said != "losing\n" {
		lack(w.t, "packets can't be dropped here: "+said)
	}
}

func init() { roles["lose"] = lose }

// lose drops packets until standard input is closed: the program goes with the
// process.
func lose() int {
	link, err := dropping("cable", os.Getenv("LIFEBOAT_TEST_JOB"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("losing")
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = unix.Close(link)
	return 0
}

func dropping(device, part string) (int, error) {
	p, err := strconv.ParseFloat(part, 64)
	if err != nil {
		return 0, err
	}
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	insn := func(code, regs byte, off int16, imm uint32) []byte {
		b := []byte{code, regs, 0, 0, 0, 0, 0, 0}
		binary.NativeEndian.PutUint16(b[2:], uint16(off))
		binary.NativeEndian.PutUint32(b[4:], imm)
		return b
	}
	const random, passed, dropped = 7, 2, 1
	var code []byte
	for _, i := range [][]byte{
		insn(0x85, 0, 0, random),                   // r0 = bpf_get_prandom_u32()
		insn(0xa6, 0, 2, uint32(p*math.MaxUint32)), // if w0 < part, skip two
		insn(0xb7, 0, 0, passed),
		insn(0x95, 0, 0, 0),
		insn(0xb7, 0, 0, dropped),
		insn(0x95, 0, 0, 0),
	} {
		code = append(code, i...)
	}
	license := append([]byte("GPL"), 0)
	load := struct {
		kind, count    uint32
		code, license  uint64
		level, logSize uint32
		log            uint64
		rest           [64]byte
	}{kind: 6, count: uint32(len(code) / 8), code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	prog, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		return 0, fmt.Errorf("load: %w", errno)
	}
	attach := struct {
		prog, device, where, flags uint32
		rest                       [32]byte
	}{prog: uint32(prog), device: uint32(dev.Index), where: unix.BPF_XDP, flags: unix.XDP_FLAGS_SKB_MODE}
	link, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach))
	if errno != 0 {
		return 0, fmt.Errorf("attach: %w", errno)
	}
	return int(link), nil
}
