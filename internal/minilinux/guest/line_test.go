package guest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		line, word, value string
		ok                bool
	}{
		{"lifeboat-counter 7\r", Counter, "7", true},
		{"lifeboat-ring damaged record 3 of 4 is not what was written", Ring, "damaged record 3 of 4 is not what was written", true},
		{"lifeboat-stopped", Stopped, "", true},
		{"[    1.0] EXT4-fs (vda2): recovery complete", "", "", false},
		{"lifeboat-counters 7", "", "", false},
		{"x lifeboat-counter 7", "", "", false},
		{"", "", "", false},
	} {
		word, value, ok := Parse(c.line)
		require.Equal(t, c.word, word, c.line)
		require.Equal(t, c.value, value, c.line)
		require.Equal(t, c.ok, ok, c.line)
	}
}
