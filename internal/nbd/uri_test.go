package nbd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseURI(t *testing.T) {
	for _, c := range []struct{ uri, network, address, export string }{
		{"nbd://example.com", "tcp", "example.com:10809", ""},
		{"nbd://example.com/", "tcp", "example.com:10809", ""},
		{"nbd://example.com:99/a/b", "tcp", "example.com:99", "a/b"},
		{"nbd://[::1]/a%20b", "tcp", "[::1]:10809", "a b"},
		{"nbd+unix:///?socket=/run/s", "unix", "/run/s", ""},
		{"nbd+unix:///disk?socket=/run/s%3f", "unix", "/run/s?", "disk"},
		{"nbd+unix://?socket=/run/s", "unix", "/run/s", ""},
	} {
		o, err := ParseURI(c.uri)
		require.NoError(t, err, c.uri)
		require.Equal(t, Options{Network: c.network, Address: c.address, Export: c.export}, o, c.uri)
	}
	o, err := ParseURI("nbds://example.com/x?tls-hostname=other.example")
	require.NoError(t, err)
	require.Equal(t, "other.example", o.TLS.ServerName)
	require.False(t, o.TLS.InsecureSkipVerify)

	for _, uri := range []string{
		"", "disk", "http://example.com", "nbd://", "nbd:///x", "nbd+unix:///x", "nbd+unix://host/x?socket=/s",
		"nbd://h?socket=/s", "nbd://u@h/x", "nbd://h/x#y", "nbd://h/x?tls-certificates=/x", "nbds://h?tls-verify-peer=false",
		"nbd+unix:///?socket=/a&socket=/b", "nbd://h:port/", "nbd://h/%ff", "nbd://h/%zz", "nbds://h?tls-certificates=/does/not/exist",
	} {
		_, err := ParseURI(uri)
		require.Error(t, err, uri)
	}
}

// NBD knows no passwords, but who gives one must not find it in a log.
func TestURIErrorsHaveNoPassword(t *testing.T) {
	for _, uri := range []string{"nbd://user:secret@host/disk", "nbd://user:secret@ho st/%zz", "nbd://user:secret@[host"} {
		_, err := ParseURI(uri)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
	}
}
