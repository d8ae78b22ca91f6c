package lint

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every test that docs/rules.md names exists, and so does the case that it
// names behind the colon.
func TestRulesHaveTheirTests(t *testing.T) {
	root := filepath.Join("..", "..")
	raw, err := os.ReadFile(filepath.Join(root, "docs", "rules.md"))
	require.NoError(t, err)
	sources := map[string]string{}
	named := regexp.MustCompile("`([a-z/]+) (Test[A-Za-z]+)(?:: ([^`]+))?`")
	rows := 0
	for _, line := range strings.Split(string(raw), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| rule |") {
			continue
		}
		rows++
		tests := named.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test is named: %s", line)
		}
		for _, n := range tests {
			dir, name, part := n[1], n[2], n[3]
			if _, ok := sources[dir]; !ok {
				files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(dir), "*_test.go"))
				require.NoError(t, err)
				for _, f := range files {
					src, err := os.ReadFile(f)
					require.NoError(t, err)
					sources[dir] += string(src)
				}
			}
			if !strings.Contains(sources[dir], "func "+name+"(t *testing.T) {") {
				t.Errorf("package %s has no test %s", dir, name)
			}
			if part != "" && !strings.Contains(sources[dir], `"`+part+`"`) {
				t.Errorf("package %s has no case %q", dir, part)
			}
		}
	}
	require.Greater(t, rows, 30)
}
