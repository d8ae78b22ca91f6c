package offline

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// member is one of an archive of cpio's.
func member(name string, size int) string {
	head := fmt.Sprintf("070701%s%08x%s%08x%08x", bytes.Repeat([]byte("0"), 48), size, bytes.Repeat([]byte("0"), 32), len(name)+1, 0)
	b := append([]byte(head+name), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return string(append(b, make([]byte, (size+3)&^3)...))
}

func TestAnInitramfsThatIsTooMuchIsRefused(t *testing.T) {
	names := func(b []byte) (list []string, err error) {
		err = initramfs(bytes.NewReader(b), func(n string) { list = append(list, n) })
		return list, err
	}
	end := member("TRAILER!!!", 0)
	list, err := names([]byte(member("a", 5) + end + "\x00\x00\x00\x00" + member("b", 0) + end))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, list)
	_, err = names([]byte(member("a", 5)))
	require.ErrorIs(t, err, dr.ErrCorrupt)
	_, err = names([]byte("\x89LZO\x00\r"))
	require.ErrorIs(t, err, dr.ErrUnsupported)

	// 3 GiB of zeros behind one archive, in 3 MiB.
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write([]byte("070701" + string(bytes.Repeat([]byte("0"), 48)) + "ffffffff" + string(bytes.Repeat([]byte("0"), 32)) + "0000000200000000a\x00"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = names(z.Bytes())
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

// A header of a hundred bytes must not cost gigabytes.
func TestADecompressorIsNotLedToAllocate(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	xz := []byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36" + "\x02\x00\x21\x01\x27\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00")
	require.ErrorIs(t, initramfs(bytes.NewReader(xz), func(string) {}), dr.ErrUnsupported)
	lzma := []byte("\x5d\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00")
	require.Error(t, initramfs(bytes.NewReader(lzma), func(string) {}))
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2*maxWindow))
}

func FuzzInitramfs(f *testing.F) {
	end := member("TRAILER!!!", 0)
	f.Add([]byte(member("lib/modules/x.ko.xz", 5) + end + "\x00\x00\x00\x00\x1f\x8b\x08"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x08\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00a\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x58"))
	f.Add([]byte("\x02\x21\x4c\x18\x04\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		initramfs(bytes.NewReader(b), func(n string) { module(n) })
	})
}

func FuzzRules(f *testing.F) {
	f.Add("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m comment --comment \"a b\" --dport 22 -j ACCEPT\n")
	f.Add("chain input {\ntype filter hook input priority 0; policy drop;\ntcp dport { ssh, 80 } accept\n}\n")
	f.Add("-A INPUT -m")
	f.Fuzz(func(t *testing.T, text string) {
		iptables(text, "22")
		nftables(text, "22")
		sections(text)
	})
}
