package jobs

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func these(jobs ...Job) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
}

// rules.md: jobs can be "exported".
func TestExport(t *testing.T) {
	s := dr.Status{Run: "r", Flow: "planned-failover", State: dr.RunFailed, Started: noon, Ended: noon.Add(time.Minute), Reason: "x",
		Locks: []string{"protection/web"}, Steps: steps(dr.StepUndone, dr.StepFailed)}
	s.Steps[1].Err = "=HYPERLINK(\"http://evil\")\nsecond line"
	s.Steps[1].Ended = noon.Add(1500 * time.Millisecond)
	tree := Of(plan(2))
	var out bytes.Buffer
	require.NoError(t, WriteCSV(&out, these(Of(s, Options{}), Job{ID: "empty", State: NotStarted}, tree)))
	head, rest, _ := strings.Cut(out.String(), "\r\n")
	require.Equal(t, `"job","parent","flow","protections","job state","job waits","job started","job ended","task","name","state","waits","started","ended","seconds","attempts","bytes done","bytes total","error code","error"`, head)
	require.Contains(t, rest, `"r","","planned-failover","web","Failed","","2026-01-02T12:00:00Z","2026-01-02T12:01:00Z","s1","a@1","Failed","","2026-01-02T12:00:00Z","2026-01-02T12:00:01Z","1.500","1","0","0","step-failed","'=HYPERLINK(""http://evil"")`+"\nsecond line\"\r\n")
	records, err := csv.NewReader(&out).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 1+2+1+ /* tree */ 1+1+1+10)
	require.Equal(t, "plan.m1", records[len(records)-1][0])
	require.Equal(t, "plan", records[len(records)-1][1])

	out.Reset()
	require.NoError(t, WriteJSON(&out, these(Of(s, Options{}), tree)))
	var back []Job
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Len(t, back, 2)
	require.Equal(t, Failed, back[0].State)
	require.Equal(t, s.Steps[1].Err, back[0].Tasks[1].Errors[0].Message)
	require.Equal(t, tree.Tasks[1].Jobs[0].Tasks[6].Disks, back[1].Tasks[1].Jobs[0].Tasks[6].Disks)
	out.Reset()
	require.NoError(t, WriteJSON(&out, these()))
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Empty(t, back)
}

func TestExportEndsWithTheListsError(t *testing.T) {
	no := errors.New("no")
	broken := func(yield func(Job, error) bool) {
		_ = yield(Job{ID: "first"}, nil) && yield(Job{}, no)
	}
	for _, write := range []func(io.Writer, iter.Seq2[Job, error]) error{WriteCSV, WriteJSON} {
		var out bytes.Buffer
		require.ErrorIs(t, write(&out, broken), no)
		require.Contains(t, out.String(), "first")
		require.ErrorIs(t, write(full{}, these(Job{ID: dr.RunID(strings.Repeat("x", 10000))}, Job{})), errFull)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// What is written is not kept: however many jobs there are, what is under way
// between list and writer stays small.
func TestExportStreams(t *testing.T) {
	const n = 20_000
	for _, write := range []func(io.Writer, iter.Seq2[Job, error]) error{WriteCSV, WriteJSON} {
		var out counter
		size, most := 0, 0
		j := Of(dr.Status{Run: "r", State: dr.RunDone, Steps: steps(dr.StepDone)}, Options{})
		require.NoError(t, write(&out, func(yield func(Job, error) bool) {
			for i := range n {
				if i == 1000 {
					size = out.n / 1000
				}
				if i > 1000 {
					most = max(most, i*size-out.n)
				}
				if !yield(j, nil) {
					return
				}
			}
		}))
		require.Greater(t, out.n, n*100)
		require.Less(t, most, 32<<10, "bytes that were neither written nor dropped")
	}
}

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func TestCells(t *testing.T) {
	for in, want := range map[string]string{
		"web": "web", "": "", "=1": "'=1", "+1": "'+1", "-1": "'-1", "@a": "'@a", "\t=1": "'\t=1", "\r=1": "' =1", "\n=1": "'\n=1", "  =1": "'  =1",
		"＝1": "'＝1", "a=1": "a=1", "\x00=1": "' =1", "\ufeff=1": "' =1", "a\x1bb": "a b", "2026-01": "2026-01", "\xff": "\ufffd", "\u00a0=1": "'\u00a0=1",
	} {
		require.Equal(t, want, cell(in), "%q", in)
	}
}

// Whatever guests and platforms call their things: as many fields come out as
// went in, and none is a formula.
func FuzzCSV(f *testing.F) {
	f.Add("=cmd|' /C calc'!A0", "a\",=1", "x\r\n=1,\"")
	f.Add("\xff\xfe", "＋1", "\u2028=1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var out bytes.Buffer
		j := Job{ID: dr.RunID(a), Flow: b, Tasks: []Task{{ID: c, Name: a}, {ID: b, Jobs: []Job{{ID: dr.RunID(c)}}}}}
		require.NoError(t, WriteCSV(&out, these(j)))
		require.True(t, utf8.Valid(out.Bytes()))
		records, err := csv.NewReader(bytes.NewReader(out.Bytes())).ReadAll()
		require.NoError(t, err)
		require.Len(t, records, 4)
		for _, r := range records {
			require.Len(t, r, len(columns))
			for _, v := range r {
				v = strings.TrimLeftFunc(v, unicode.IsSpace)
				first, _ := utf8.DecodeRuneInString(v)
				require.False(t, v != "" && strings.ContainsRune("=+-@|%＝＋－＠", first), "%q", v)
			}
		}
	})
}

// BenchmarkCSV is an export of a plan of a hundred machines.
func BenchmarkCSV(b *testing.B) {
	j := Of(plan(100))
	b.ReportAllocs()
	for b.Loop() {
		_ = WriteCSV(io.Discard, these(j))
	}
}
