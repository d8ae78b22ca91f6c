package regf

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func open(t testing.TB, name string) *Hive {
	r, size := guestfstest.Open(t, name)
	h, err := Open(r, size)
	require.NoError(t, err)
	return h
}

// What hivex wrote is read, and read as hivexget reads it.
func TestWhatHivexWroteIsRead(t *testing.T) {
	var reg strings.Builder
	reg.WriteString("[HKEY_LOCAL_MACHINE\\HIVE\\Select]\n\"Current\"=dword:00000002\n\"Text\"=\"Gruesse\"\n@=\"default\"\n\"Empty\"=\"\"\n\n")
	for i := range 700 {
		fmt.Fprintf(&reg, "[HKEY_LOCAL_MACHINE\\HIVE\\Services\\service%d]\n\"Start\"=dword:%08x\n\n", i, i)
	}
	big := strings.Repeat("0123456789", 5000)
	fmt.Fprintf(&reg, "[HKEY_LOCAL_MACHINE\\HIVE\\Big]\n\"Long\"=\"%s\"\n\n", big[:16000])
	name := guestfstest.Hive(t, reg.String())
	h := open(t, name)
	require.False(t, h.Dirty)
	k, err := h.Key("select")
	require.NoError(t, err)
	v, err := k.Value("CURRENT")
	require.NoError(t, err)
	n, ok := v.Number()
	require.True(t, ok)
	require.EqualValues(t, 2, n)
	v, err = k.Value("Text")
	require.NoError(t, err)
	require.Equal(t, "Gruesse", v.Text())
	_, err = k.Value("none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = h.Key(`Services\none`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, i := range []int{0, 1, 350, 699} {
		k, err := h.Key(fmt.Sprintf(`Services\service%d`, i))
		require.NoError(t, err)
		v, err := k.Value("Start")
		require.NoError(t, err)
		n, _ := v.Number()
		require.EqualValues(t, i, n)
		require.Contains(t, guestfstest.Run(t, "hivexget", name, fmt.Sprintf(`\Services\service%d`, i), "Start"), fmt.Sprintf("%d\n", i))
	}
	k, err = h.Key("Services")
	require.NoError(t, err)
	count := 0
	for _, err := range k.Keys() {
		require.NoError(t, err)
		count++
	}
	require.Equal(t, 700, count)
	k, err = h.Key("Big")
	require.NoError(t, err)
	v, err = k.Value("Long")
	require.NoError(t, err)
	require.Equal(t, big[:16000], v.Text())
}

func TestAHiveThatWasBeingWrittenSaysSo(t *testing.T) {
	name := guestfstest.Hive(t, "[HKEY_LOCAL_MACHINE\\HIVE\\Select]\n\"Current\"=dword:00000001\n")
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	le.PutUint32(b[4:], le.Uint32(b[4:])+1)
	require.NoError(t, os.WriteFile(name, b, 0o600))
	require.True(t, open(t, name).Dirty)
}
