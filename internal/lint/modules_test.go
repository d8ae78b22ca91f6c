package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// required lists the modules that a go.mod names, without their versions.
func required(goMod string) []string {
	var names []string
	for _, l := range regexp.MustCompile(`(?m)^(?:require)?\s+([^\s()]+) v\S+`).FindAllStringSubmatch(goMod, -1) {
		names = append(names, l[1])
	}
	slices.Sort(names)
	return names
}

// Whoever embeds the library takes over what its module requires, used or not:
// in their go.sum, in their audits, in their version choices. So what only some
// need is a module of its own (see docs/decisions/0007).
func TestTheModuleRequiresNothingNew(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	require.NoError(t, err)
	list, err := os.ReadFile(filepath.Join("testdata", "modules.txt"))
	require.NoError(t, err)
	known := strings.Fields(string(list))
	got := required(string(mod))
	require.Greater(t, len(got), 20, "the list must have been found")
	for _, m := range got {
		if !slices.Contains(known, m) {
			t.Errorf("go.mod requires %s, which is not in testdata/modules.txt: who does not need it should not have it; make what needs it a module of its own, or write the reason into docs/decisions/0007", m)
		}
	}
	for _, m := range known {
		if !slices.Contains(got, m) {
			t.Errorf("testdata/modules.txt names %s, which go.mod does not require any more: take it out", m)
		}
	}
	require.Equal(t, []string{"a.b/c", "d.e/f/v2", "g.h/i"}, required("module x\n\ngo 1.26.0\n\nrequire g.h/i v0.1.0\n\nrequire (\n\td.e/f/v2 v2.0.0\n\ta.b/c v1.2.3 // indirect\n)\n"))
}

// What has a go.mod of its own is passed over by ./..., so make has to name it.
func TestModulesOfTheirOwnAreTested(t *testing.T) {
	root := filepath.Join("..", "..")
	make, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^MODULES := (.*)$`).FindSubmatch(make)
	require.NotNil(t, line, "the Makefile has a line MODULES")
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if dir := filepath.Dir(name); d.Name() == "go.mod" && dir != root {
			rel, err := filepath.Rel(root, dir)
			if err != nil {
				return err
			}
			found = append(found, filepath.ToSlash(rel))
		}
		return nil
	}))
	require.NotEmpty(t, found)
	require.ElementsMatch(t, found, strings.Fields(string(line[1])), "the Makefile's MODULES are those that are there")
}
