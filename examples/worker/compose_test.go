package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// compose.yaml is YAML, and its worker's arguments are this program's. That the
// images take their variables isn't shown.
func TestComposeFile(t *testing.T) {
	raw, err := os.ReadFile("compose.yaml")
	require.NoError(t, err)
	var f struct {
		Services map[string]struct {
			Command []string
			Secrets []string
		}
		Secrets map[string]any
	}
	require.NoError(t, yaml.Unmarshal(raw, &f))
	w := f.Services["worker"]
	require.Equal(t, "serve", w.Command[0])
	_, err = parseServe(w.Command[1:])
	require.NoError(t, err)
	for name, s := range f.Services {
		for _, secret := range s.Secrets {
			require.Contains(t, f.Secrets, secret, name)
		}
	}
}
