package jobs

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/dr/health"
)

// WriteJSON writes jobs as a JSON array, one job a line, as they come. An error
// of the list or of w ends it, and leaves an array that is not closed.
func WriteJSON(w io.Writer, jobs iter.Seq2[Job, error]) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	between := "[\n"
	for j, err := range jobs {
		if err != nil {
			b.Flush() // the list's error says more
			return err
		}
		b.WriteString(between)
		if err := enc.Encode(j); err != nil {
			return err
		}
		between = ","
	}
	if between == "[\n" {
		b.WriteString("[")
	}
	b.WriteString("]\n")
	return b.Flush()
}

// columns of a CSV export. New ones are added at the end.
var columns = []string{"job", "parent", "flow", "protections", "job state", "job waits", "job started", "job ended",
	"task", "name", "state", "waits", "started", "ended", "seconds", "attempts", "bytes done", "bytes total", "error code", "error"}

// WriteCSV writes jobs as CSV by RFC 4180 with a header, as they come: one row
// a task, the tasks of a job below another behind the task that drives it, and
// one row for a job without tasks. Times are RFC 3339 in UTC.
//
// The file is safe to open in a spreadsheet: every field is quoted, and text
// that would be taken for a formula has an apostrophe before it. Names and
// errors come from guests, people and platforms.
//
// An error of the list or of w ends it behind the rows so far.
func WriteCSV(w io.Writer, jobs iter.Seq2[Job, error]) error {
	b := bufio.NewWriter(w)
	row(b, columns)
	for j, err := range jobs {
		if err != nil {
			b.Flush()
			return err
		}
		rows(b, j)
		if _, err := b.Write(nil); err != nil { // what has failed stays so
			return err
		}
	}
	return b.Flush()
}

func rows(b *bufio.Writer, j Job) {
	var about []string
	for _, p := range j.Protections {
		about = append(about, string(p))
	}
	head := []string{string(j.ID), string(j.Parent), j.Flow, strings.Join(about, " "), string(j.State), string(j.Waits), when(j.Started), when(j.Ended)}
	head = head[:len(head):len(head)]
	if len(j.Tasks) == 0 {
		code, text := first(j.Errors)
		row(b, append(head, "", "", "", "", "", "", "", "", "", "", code, text))
	}
	for _, t := range j.Tasks {
		code, text := first(t.Errors)
		done, total := int64(0), int64(0)
		for _, d := range t.Disks {
			done, total = done+d.Done, total+d.Total
		}
		row(b, append(head, t.ID, t.Name, string(t.State), string(t.Waits), when(t.Started), when(t.Ended),
			strconv.FormatFloat(t.Took.Seconds(), 'f', 3, 64), strconv.Itoa(t.Attempts), strconv.FormatInt(done, 10), strconv.FormatInt(total, 10), code, text))
		for _, c := range t.Jobs {
			if !c.Repeated {
				rows(b, c)
			}
		}
	}
}

func first(errors []health.Error) (code, text string) {
	if len(errors) == 0 {
		return "", ""
	}
	return errors[0].Code, errors[0].Message
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// row writes one record. Every field is quoted: programs that split at other
// characters than the comma then still see fields where they are.
func row(b *bufio.Writer, fields []string) {
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(cell(f), `"`, `""`))
		b.WriteByte('"')
	}
	b.WriteString("\r\n")
}

// cell makes a text safe for spreadsheets. Those that OWASP names begin a
// formula, the full-width ones among them; blanks before them are passed over,
// because some programs do so too. Control characters have no business in a
// cell, and what is not UTF-8 would break the file.
func cell(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || r == '\ufeff' {
			return ' '
		}
		return r // what is not UTF-8 has become U+FFFD
	}, s)
	t := strings.TrimLeftFunc(s, unicode.IsSpace)
	if r, _ := utf8.DecodeRuneInString(t); t != "" && strings.ContainsRune("=+-@|%＝＋－＠", r) {
		return "'" + s
	}
	return s
}
