package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var (
	noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	web  = Entity{Kind: KindProtection, ID: "web", Name: "Web shop"}
)

// rules.md: "A health error carries: source, type, level, category, code, id,
// summary, message, possible causes, recommended action, time, entity, inner
// errors."
func TestAHealthErrorCarries(t *testing.T) {
	e, ok := FromError(errors.Join(
		&dr.Error{Op: "read", Side: dr.SourceSide, Site: "here", Machine: "vm-1", Disk: "os", Off: 512, Err: dr.ErrCorrupt, Remedy: "replace the disk"},
		fmt.Errorf("release: %w", dr.ErrBusy)), web, noon)
	require.True(t, ok)
	raw, err := json.Marshal(e)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(raw, &fields))
	for _, name := range []string{"source", "type", "level", "category", "code", "id", "summary", "message", "possibleCauses", "recommendedAction", "time", "entity", "innerErrors"} {
		require.NotEmpty(t, fields[name], name)
	}
	require.Len(t, fields, 13, "and nothing else")
	require.Equal(t, "critical", fields["level"])
	var back Error
	require.NoError(t, json.Unmarshal(raw, &back))
	require.Equal(t, e, back)
}

// Every sentinel of package dr has a row, and a code of its own.
func TestEverySentinelHasACode(t *testing.T) {
	tree, err := parser.ParseFile(token.NewFileSet(), "../errors.go", nil, 0)
	require.NoError(t, err)
	src, err := os.ReadFile("code.go")
	require.NoError(t, err)
	n := 0
	ast.Inspect(tree, func(x ast.Node) bool {
		if v, ok := x.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if strings.HasPrefix(name.Name, "Err") {
					n++
					require.Equal(t, 1, strings.Count(string(src), "{dr."+name.Name+", nil,"), "%s has no row in failures", name.Name)
				}
			}
		}
		return true
	})
	require.GreaterOrEqual(t, n, 17)
	for _, f := range failures {
		if f.sentinel != nil {
			require.Equal(t, f.Code, CodeOf(fmt.Errorf("as deep: %w", &dr.Error{Op: "x", Err: fmt.Errorf("as this: %w", f.sentinel)})))
		}
	}
}

// Consoles and alerts depend on codes: a change must be meant.
func TestCodesAreStable(t *testing.T) {
	var codes []string
	for _, m := range Codes() {
		codes = append(codes, m.Code)
		require.NotEmpty(t, m.Summary, m.Code)
		require.NotEmpty(t, m.Action, m.Code)
		require.NotEqual(t, Normal, m.Level, m.Code)
		require.NotContains(t, m.Summary, "  ")
	}
	require.Equal(t, []string{
		"data-corrupt", "action-panicked", "fenced", "disks-torn", "no-consistent-moment", "no-recovery-point", "changes-lost",
		"not-supported", "ambiguous", "not-allowed", "machine-running", "run-exists", "busy", "conflict", "exists-already",
		"out-of-range", "no-space", "permission-denied", "invalid-input", "not-found", "network", "timed-out", "cancelled", "error",
		"rpo-exceeded", "replication-failing", "replication-paused-long", "resync-required", "application-points-late", "clock-skew",
		"drill-not-cleaned-up", "drill-clean-up-failed", "never-drilled", "drill-overdue", "failover-not-committed", "not-protected",
		"pinned-beyond-retention", "mass-encryption-suspected",
	}, codes)
}

func TestFromError(t *testing.T) {
	_, ok := FromError(nil, web, noon)
	require.False(t, ok)
	for _, c := range []struct {
		name   string
		err    error
		code   string
		source string
		action string // contained
		inner  []string
	}{
		{"the remedy nearest to the cause", &dr.Error{Op: "a", Side: dr.TargetSide, Err: &dr.Error{Op: "b", Err: dr.ErrTorn, Remedy: "inner"}, Remedy: "outer"}, CodeTorn, "target", "inner", nil},
		{"a marked one", dr.Permanent(fmt.Errorf("x: %w", dr.ErrFenced)), CodeFenced, "coordination", "takeover", nil},
		{"a sentinel beside its cause", fmt.Errorf("%w: %w", dr.ErrNotConsistent, &dr.Error{Op: "quiesce", Side: dr.SourceSide, Err: errors.New("no answer")}), CodeNotConsistent, "source", "guest", nil},
		{"joined", fmt.Errorf("machine: %w", errors.Join(errors.New("one"), dr.ErrBusy, &dr.Error{Op: "open", Err: dr.ErrCorrupt, Remedy: "scrub"})), CodeCorrupt, "data-integrity", "scrub", []string{CodeOther, CodeCorrupt}},
		{"joined alone", errors.Join(fmt.Errorf("x: %w", dr.ErrBusy)), CodeBusy, "coordination", "holder", nil},
		{"only sentinels", errors.Join(dr.ErrBusy, dr.ErrConflict), CodeBusy, "coordination", "holder", nil},
		{"full", &os.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, CodeNoSpace, "capacity", "room", nil},
		{"network", &net.OpError{Op: "dial", Err: errors.New("refused")}, CodeNetwork, "connectivity", "address", nil},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), CodeTimedOut, "connectivity", "time", nil},
		{"held by a flow", errors.Join(fmt.Errorf("a flow: %w", dr.ErrBusy), context.Canceled), CodeBusy, "coordination", "holder", nil},
		{"panic", dr.Permanent(&dr.PanicError{Value: 1}), CodePanic, "internal", "report", nil},
		{"unknown", errors.New("boom"), CodeOther, "internal", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, ok := FromError(c.err, web, noon)
			require.True(t, ok)
			require.Equal(t, c.code, e.Code)
			require.Equal(t, c.code, CodeOf(c.err))
			require.Equal(t, c.source, e.Source)
			require.Contains(t, e.RecommendedAction, c.action)
			require.Equal(t, c.err.Error(), e.Message)
			require.Equal(t, web, e.Entity)
			require.Equal(t, noon, e.Time)
			var inner []string
			for _, i := range e.Inner {
				inner = append(inner, i.Code)
			}
			require.Equal(t, c.inner, inner)
		})
	}
}

func TestTheSameFindingKeepsItsID(t *testing.T) {
	read := func(off int64, disk dr.DiskID) Error {
		e, _ := FromError(&dr.Error{Op: "read", Side: dr.SourceSide, Machine: "vm", Disk: disk, Off: off, Err: dr.ErrCorrupt}, web, noon.Add(time.Duration(off)))
		return e
	}
	require.Equal(t, read(0, "a").ID, read(4096, "a").ID, "an offset or a time later it is the same trouble")
	require.NotEqual(t, read(0, "a").ID, read(0, "b").ID)
	renamed := web
	renamed.Name = "Shop"
	require.Equal(t, ID("x", web), ID("x", renamed))
	require.NotEqual(t, ID("x", web, "ab", "c"), ID("x", web, "a", "bc"))
	require.Len(t, ID(CodeBusy, web), 32)
	twins, _ := FromError(errors.Join(errors.New("a"), errors.New("b")), web, noon)
	require.NotEqual(t, twins.Inner[0].ID, twins.Inner[1].ID)
}

// An error may be large: what a console is given is not.
func TestWhatAnErrorBecomesIsBounded(t *testing.T) {
	many := make([]error, 100)
	for i := range many {
		many[i] = fmt.Errorf("%d \xff %s", i, strings.Repeat("ü", 10_000))
	}
	e, _ := FromError(errors.Join(many...), web, noon)
	require.Len(t, e.Inner, maxInner)
	require.Contains(t, e.Message, "100 errors, of which 68 are not listed")
	require.LessOrEqual(t, len(e.Message), maxMessage+8)
	deep := errors.New("x")
	for range 1000 {
		deep = errors.Join(deep, errors.New("y"))
	}
	e, _ = FromError(deep, web, noon)
	raw, err := json.Marshal(e)
	require.NoError(t, err)
	require.Less(t, len(raw), 400<<10)
}
