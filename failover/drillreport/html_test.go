package drillreport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	_ "image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/drillreport"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// browserTime is how long a browser may take to start on a slow machine.
const browserTime = 2 * time.Minute

const hostile = `</script><script>alert(1)</script><img src=x onerror=alert(1)>"'&`

func html(t *testing.T, r drillreport.Report) string {
	var b bytes.Buffer
	require.NoError(t, r.WriteHTML(&b))
	return b.String()
}

func TestPageNeedsNothingElse(t *testing.T) {
	w := newWorld(t, shop(), calls())
	r := w.drill("drill", drillreport.Options{})
	page := html(t, r)
	require.NotRegexp(t, regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?(https?:)?//`), page, "nothing is loaded")
	require.NotContains(t, page, "@import")
	require.Contains(t, page, "default-src 'none'")
	// The report is in it, whole.
	_, raw, ok := strings.Cut(page, `<script type="application/json" id="report">`)
	require.True(t, ok)
	raw, _, _ = strings.Cut(raw, "</script>")
	var again drillreport.Report
	require.NoError(t, json.Unmarshal([]byte(raw), &again))
	require.Equal(t, r.Machines, again.Machines)
}

// What guests, scripts and platforms say is text.
func TestPageIsSafe(t *testing.T) {
	no := false
	r := drillreport.Report{
		Plan: hostile, Flow: hostile, Run: hostile, State: dr.RunDone, Reason: hostile, Notes: hostile, Failures: []string{hostile},
		Machines: []drillreport.Machine{{Protection: hostile, Name: hostile, Group: hostile, State: hostile, Why: hostile, Point: hostile, Moment: hostile,
			Evidence: &drillreport.Evidence{Kind: hostile, What: hostile, PNG: []byte(hostile)}, Cleaned: &no,
			Steps: []drillreport.Step{{ID: hostile, State: hostile, Err: hostile}}}},
		Checks:    []drillreport.Check{{Step: hostile, Kind: hostile, Seen: hostile, Err: hostile, NotRun: hostile}},
		Decisions: []drillreport.Decision{{Question: hostile, Verdict: hostile, By: hostile, Note: hostile}},
		Findings:  []recoveryplan.Finding{{Code: hostile, Machine: hostile, Text: hostile, Remedy: hostile}},
	}
	page := html(t, r)
	require.NotContains(t, page, "<script>")
	require.NotContains(t, page, "<img")
	require.NotContains(t, page, "onerror=alert(1)>")
	require.Equal(t, 1, strings.Count(page, "</script"))
}

// A browser shows it: all machines are there, nothing overflows, nothing is
// asked of anybody.
func TestPageInABrowser(t *testing.T) {
	chromium := browser(t)
	w := newWorld(t, shop(), calls())
	r := w.drill("drill", drillreport.Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "report.html")
	require.NoError(t, os.WriteFile(file, []byte(html(t, r)), 0o600))
	at := (&url.URL{Scheme: "file", Path: file}).String()
	shown := func(args ...string) (string, string) {
		ctx, cancel := context.WithTimeout(t.Context(), browserTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, chromium, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr",
			"--user-data-dir=" + filepath.Join(dir, "profile")}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		require.NoError(t, cmd.Run(), errs.String())
		return out.String(), errs.String()
	}
	const refused = "Content Security Policy"
	run := func(args ...string) string {
		out, said := shown(args...)
		require.NotContains(t, said, refused, "the page asks for what it forbids itself")
		return out
	}
	asking := filepath.Join(dir, "asking.html")
	require.NoError(t, os.WriteFile(asking, []byte(strings.Replace(html(t, r), "<body>", `<body><img src="http://127.0.0.1:9/x.png">`, 1)), 0o600))
	_, said := shown("--dump-dom", (&url.URL{Scheme: "file", Path: asking}).String())
	require.Contains(t, said, refused, "or nothing that a page asks for would be seen")
	dom := run("--dump-dom", at)
	for _, m := range r.Machines {
		require.Contains(t, dom, "<b>"+string(m.Protection)+"</b>")
	}
	require.Contains(t, dom, "ready for connections")
	picture := filepath.Join(dir, "page.png")
	run("--hide-scrollbars", "--window-size=1200,1600", "--screenshot="+picture, at)
	f, err := os.Open(picture)
	require.NoError(t, err)
	defer f.Close()
	img, _, err := image.Decode(f)
	require.NoError(t, err)
	colours := map[[3]uint32]bool{}
	for y := 0; y < img.Bounds().Dy(); y += 3 {
		for x := 0; x < img.Bounds().Dx(); x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			colours[[3]uint32{r, g, b}] = true
		}
	}
	require.Greater(t, len(colours), 20, "there is something on the page")
	pdf := filepath.Join(dir, "page.pdf")
	run("--print-to-pdf="+pdf, at)
	raw, err := os.ReadFile(pdf)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(raw, []byte("%PDF")))
}

func browser(t *testing.T) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatal("chromium is not installed, and LIFEBOAT_REQUIRE=all")
	}
	t.Skip("chromium is not installed")
	return ""
}
