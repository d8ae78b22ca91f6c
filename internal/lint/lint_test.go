package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/lifeboat-dr/lifeboat"

// layers says what a package may import of this module: itself, what is
// listed, and nothing else. The longest prefix that fits counts. Tests may
// import more.
var layers = []struct {
	pkg    string
	allows []string
}{
	{"dr", nil},
	{"dr/claims", []string{"dr", "internal"}}, // buckets are taken as an interface
	{"dr/temporal", []string{"dr"}},           // a module of its own
	{"dr/embedded", []string{"dr", "internal"}},
	{"dr/enginetest", []string{"dr", "internal"}},
	{"dr/health", []string{"dr", "recoverypoint", "recoverypoint/suspicion"}},
	{"dr/jobs", []string{"dr", "dr/health"}},
	{"dr/observe", []string{"dr"}},
	{"dr/temporal", []string{"dr"}}, // a module of its own, like those in it
	{"dr/temporal/temporalfleet", []string{"dr", "replication", "replication/fleet", "replication/scheduler"}},
	{"dr/temporal/servertest/", []string{"dr", "internal"}},
	{"dr/transfer", []string{"dr"}},
	{"dr/postgres", []string{"dr", "replication/fleet"}}, // a module of its own
	{"dr/temporal", []string{"dr"}},
	{"dr/temporal/servertest", nil}, // only tests
	{"backend", []string{"dr"}},
	{"backend/", []string{"dr", "backend", "backend/guestscript", "internal"}},                          // platforms; never each other
	{"backend/azure", []string{"dr", "backend", "backend/guestscript", "recoverypoint", "internal"}},    // page blobs are points and replicas
	{"backend/physical/inventory", []string{"dr", "backend", "failover/readiness/offline", "internal"}}, // the facts of a Linux have one reader
	{"backend/remote/trialpki", nil},
	{"backend/remote/enrol", []string{"dr", "internal"}},
	{"backend/physical/fsfreeze", []string{"dr", "backend/physical"}},
	{"backend/guestscript", []string{"dr", "backend"}},
	{"backend/azure/", []string{"dr", "backend", "recoverypoint", "internal"}},
	{"recoverypoint", []string{"dr", "recoverypoint/suspicion"}},
	{"recoverypoint/suspicion", []string{"dr"}},
	{"recoverypoint/", []string{"dr", "recoverypoint", "internal"}},
	{"replication", []string{"dr", "backend", "recoverypoint"}},
	{"replication/telemetry", []string{"dr", "dr/health", "dr/observe", "recoverypoint", "replication", "replication/scheduler"}},
	{"replication/scheduler", []string{"dr", "backend", "recoverypoint", "replication"}},
	{"dr/temporal/temporalfleet", []string{"dr", "replication", "replication/scheduler", "replication/fleet"}},
	{"replication/fleet", []string{"dr", "backend", "recoverypoint", "replication", "replication/scheduler"}},
	{"replication/fleet/", []string{"dr", "replication/fleet"}},
	{"failover", []string{"dr", "backend", "recoverypoint", "replication"}},
	{"failover/recoveryplan", []string{"dr", "dr/jobs", "backend", "recoverypoint", "replication", "failover", "failback", "failover/networks", "failover/readiness"}}, // plans fail back, too
	{"failover/drillreport", []string{"dr", "backend", "failover", "failover/recoveryplan"}},
	{"failover/readiness/offline", []string{"dr", "backend", "internal"}},
	{"failover/cleanroom", []string{"dr", "recoverypoint"}},
	{"failover/bootproof", []string{"dr", "backend", "recoverypoint", "failover/recoveryplan", "internal"}}, // a plan's callback
	{"failover/networks", []string{"dr", "backend", "failover"}},
	{"failover/readiness", []string{"dr", "backend", "recoverypoint", "replication"}}, // facts come by abilities, never from a platform
	{"failback", []string{"dr", "backend", "recoverypoint", "replication", "failover"}},
	{"failback/roundtriptest", []string{"dr", "dr/embedded", "backend", "backend/backendtest", "recoverypoint", "recoverypoint/vault", "replication", "failover", "failback"}},
	{"internal/", []string{"dr", "internal"}},
	{"internal/qemu", []string{"dr", "backend", "internal"}}, // what it sees is backend.Evidence
	{"examples/", []string{"*"}},
}

// plain packages import the standard library, x/sync and x/time only.
var plain = []string{"dr", "backend", "recoverypoint", "replication", "failover", "failback"}

// maxLines of a file that is not a test.
const maxLines = 500

var vague = regexp.MustCompile(`^(utils?|common|helpers?|types|misc)$`)

type file struct {
	path, pkg string // slash-separated, from the repository's root; pkg "" for the root
	ast       *ast.File
	fset      *token.FileSet
	lines     int
}

func (f file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

func load(t *testing.T) []file {
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		pkg := path.Dir(rel)
		if pkg == "." {
			pkg = ""
		}
		files = append(files, file{rel, pkg, tree, fset, strings.Count(string(src), "\n")})
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(files), 50, "the walk must have found the repository")
	return files
}

// allowed tells whether pkg may import dep, both from the module's root.
func allowed(pkg, dep string) bool {
	var rule []string
	best := -1
	for _, l := range layers {
		if (pkg == l.pkg || strings.HasSuffix(l.pkg, "/") && strings.HasPrefix(pkg, l.pkg)) && len(l.pkg) > best {
			rule, best = l.allows, len(l.pkg)
		}
	}
	top := func(p string) string {
		return strings.Join(strings.SplitN(p, "/", 3)[:min(2, strings.Count(p, "/")+1)], "/")
	}
	return pkg == dep || slices.ContainsFunc(rule, func(a string) bool {
		return a == "*" || a == dep || a == "internal" && strings.HasPrefix(dep, "internal/")
	}) || strings.Contains(pkg, "/") && top(pkg) == top(dep) && !strings.HasPrefix(pkg, "internal/")
}

func TestImportsPointDownwards(t *testing.T) {
	for _, f := range load(t) {
		if f.test() || f.pkg == "" {
			continue
		}
		for _, i := range f.ast.Imports {
			imp := strings.Trim(i.Path.Value, `"`)
			if dep, ok := strings.CutPrefix(imp, module+"/"); ok {
				if !allowed(f.pkg, dep) {
					t.Errorf("%s imports %s: the direction of imports forbids it (see layers in this test)", f.path, dep)
				}
				continue
			}
			if slices.Contains(plain, f.pkg) && strings.Contains(strings.Split(imp, "/")[0], ".") &&
				!strings.HasPrefix(imp, "golang.org/x/sync/") && !strings.HasPrefix(imp, "golang.org/x/time/") {
				t.Errorf("%s imports %s: package %s is for the standard library, x/sync and x/time only", f.path, imp, f.pkg)
			}
		}
	}
}

func TestTheImportRuleRefuses(t *testing.T) {
	for _, c := range []struct {
		pkg, dep string
		ok       bool
	}{
		{"dr", "backend", false}, {"backend", "dr", true}, {"backend", "recoverypoint", false},
		{"backend/memory", "backend/physical", false}, {"backend/memory", "backend", true},
		{"backend/physical/physicaltest", "backend/physical", true},
		{"backend/azure/pageblob", "recoverypoint", true}, {"backend/azure", "backend/vmware", false},
		{"recoverypoint/vault", "internal/fsys", true}, {"recoverypoint/vault/buckettest", "recoverypoint/vault", true},
		{"recoverypoint/vault/azbucket", "recoverypoint/vault", true}, {"recoverypoint/vault/azbucket", "backend/azure/azuretest", false},
		{"replication", "failover", false}, {"failback", "failover", true}, {"failover", "internal/fsys", false},
		{"failover/readiness/offline", "internal/regf", true}, {"failover/readiness/offline", "recoverypoint/vault", false},
		{"internal/nbd", "recoverypoint/vault", false}, {"examples/vault", "recoverypoint/vault", true},
	} {
		require.Equal(t, c.ok, allowed(c.pkg, c.dep), fmt.Sprint(c))
	}
}

func TestFilesAreShortAndNamedAfterTheirContent(t *testing.T) {
	for _, f := range load(t) {
		if !f.test() && f.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: one thought each?", f.path, f.lines, maxLines)
		}
		name := strings.TrimSuffix(path.Base(f.path), ".go")
		if vague.MatchString(name) || vague.MatchString(path.Base(f.pkg)) {
			t.Errorf("%s: a name under which everything could land", f.path)
		}
	}
}

func TestPackagesSayWhatLivesThere(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range load(t) {
		if !f.test() {
			documented[f.pkg] = documented[f.pkg] || f.ast.Doc != nil
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %q has no package comment", pkg)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, f := range load(t) {
		if f.test() || f.ast.Name.Name == "main" {
			continue
		}
		for _, d := range f.ast.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: exported %s has no comment", f.fset.Position(d.Pos()), name)
			}
		}
	}
}

// undocumented lists the exported names of a declaration that no comment
// explains. A group's comment counts for its values.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !conventional[d.Name.Name] {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// conventional methods mean what their standard interface says.
var conventional = map[string]bool{"Error": true, "Unwrap": true, "String": true, "Close": true}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if s, ok := t.(*ast.StarExpr); ok {
		t = s.X
	}
	if i, ok := t.(*ast.IndexExpr); ok {
		t = i.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}
