package guestscript_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/guestscript"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var at = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func TestFactsAreFoundInWhatSurroundsThem(t *testing.T) {
	out := "Enable succeeded: \n[stdout]\nmotd {\"lifeboat\":0}\n" +
		`{"os":"linux","lifeboat":1,"remoteAccess":{"answer":"yes","detail":"ssh.service is enabled"},"firewall":{"input":{"answer":"no","detail":"ufw"}},"unknown":["dhcp: why"]}` +
		"\r\n\n[stderr]\nwarning\n"
	f, err := guestscript.Parse([]byte(out), "run command", at)
	require.NoError(t, err)
	require.Equal(t, backend.Facts{OS: "linux", From: "run command", At: at,
		RemoteAccess: backend.Fact{Answer: backend.Yes, Detail: "ssh.service is enabled"},
		Firewall:     map[string]backend.Fact{"input": {Answer: backend.No, Detail: "ufw"}},
		Unknown:      []string{"dhcp: why"}}, f)
}

func TestAGuestThatLiesIsBounded(t *testing.T) {
	f, err := guestscript.Parse([]byte(`{"lifeboat":1,"os":"beos","from":"me","at":"2001-01-01T00:00:00Z","release":"\u001b[2Jx`+strings.Repeat("y", 5000)+`",
`+`"x":1}`+"\n"+`{"lifeboat":1,"os":"beos","from":"me","at":"2001-01-01T00:00:00Z","release":"\u001b[2Jx`+strings.Repeat("y", 5000)+`","remoteAccess":{"answer":"maybe","detail":"a\nb"},"agents":{"nsa":{"answer":"yes"},"mobility":{"answer":"yes","detail":"9.7"}}}`), "here", at)
	require.NoError(t, err)
	require.Empty(t, f.OS)
	require.Equal(t, "here", f.From)
	require.Equal(t, at, f.At)
	require.Equal(t, 200, utf8.RuneCountInString(" "+f.Release))
	require.NotContains(t, f.Release, "\x1b")
	require.Equal(t, backend.Fact{Detail: "a b"}, f.RemoteAccess)
	require.Equal(t, map[string]backend.Fact{"mobility": {Answer: backend.Yes, Detail: "9.7"}}, f.Agents)
}

func TestOutputWithoutFactsIsAnError(t *testing.T) {
	for _, out := range []string{"", "\n", "sh: not found", `{"os":"linux"}`, `{"lifeboat":1,"os":`, `{"lifeboat":1,"agents":7}`} {
		_, err := guestscript.Parse([]byte(out), "", at)
		require.ErrorIs(t, err, dr.ErrInvalid, out)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"lifeboat":1,"os":"windows","sanPolicy":{"answer":"yes","detail":"OnlineAll"},"firewall":{"public":{"answer":"no"}}}`))
	f.Add([]byte("x\n{\"lifeboat\":1}\ny"))
	f.Fuzz(func(t *testing.T, out []byte) {
		facts, err := guestscript.Parse(out, "fuzz", at)
		if err != nil {
			require.ErrorIs(t, err, dr.ErrInvalid)
			return
		}
		b, err := json.Marshal(facts)
		require.NoError(t, err)
		require.Less(t, len(b), 100<<10)
		require.True(t, utf8.Valid(b))
		for _, r := range facts.Release + facts.RemoteAccess.Detail + strings.Join(facts.Unknown, "") {
			require.True(t, unicode.IsPrint(r))
		}
		require.Contains(t, []backend.Answer{backend.Yes, backend.No, backend.Unknown}, facts.RemoteAccess.Answer)
	})
}
