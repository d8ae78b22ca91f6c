package regf

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func FuzzHive(f *testing.F) {
	b, err := os.ReadFile(guestfstest.Hive(f, "[HKEY_LOCAL_MACHINE\\HIVE\\A\\B]\n\"C\"=dword:00000001\n\"D\"=\"text of some length\"\n\n[HKEY_LOCAL_MACHINE\\HIVE\\A\\E]\n"))
	require.NoError(f, err)
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0x20, 0x10, 1, 0x40, 0x10, 0xff})
	f.Fuzz(func(t *testing.T, changes []byte) {
		h := bytes.Clone(b)
		for ; len(changes) >= 3; changes = changes[3:] {
			h[(int(changes[0])|int(changes[1])<<8)%len(h)] = changes[2]
		}
		hive, err := Open(bytes.NewReader(h), int64(len(h)))
		if err != nil {
			return
		}
		root, err := hive.Root()
		if err != nil {
			return
		}
		todo := []*Key{root}
		for left := 200; len(todo) > 0 && left > 0; left-- {
			k := todo[0]
			todo = todo[1:]
			n := 0
			for v, err := range k.Values() {
				if n++; err != nil || n > 50 {
					break
				}
				v.Text()
			}
			for c, err := range k.Keys() {
				if err != nil || len(todo) > 200 {
					break
				}
				todo = append(todo, c)
			}
		}
	})
}
