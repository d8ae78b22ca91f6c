package azuretest

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// consolePath is where screenshots and serial logs are, which need no token:
// their addresses are secrets, as shared access signatures are.
const consolePath = "/console/"

func (v *vm) diagnosed() bool {
	d := v.model.Properties.DiagnosticsProfile
	return d != nil && d.BootDiagnostics != nil && val(d.BootDiagnostics.Enabled)
}

func (c *Cloud) consoleURLs(v *vm) (screenshot, serial string) {
	base := c.server.URL + consolePath + v.vmID
	return base + "/screenshot.png?sig=simulated", base + "/serialconsole.log?sig=simulated"
}

func (c *Cloud) bootDiagnostics(q *request) (reply, error) {
	v, err := need[*vm](c, q.owner(1))
	switch {
	case err != nil:
		return reply{}, err
	case !v.diagnosed():
		return reply{}, notAllowed("boot diagnostics of VM %s are not enabled", v.name)
	}
	screenshot, serial := c.consoleURLs(v)
	return ok(armcompute.RetrieveBootDiagnosticsDataResult{ConsoleScreenshotBlobURI: &screenshot, SerialConsoleLogBlobURI: &serial})
}

// serveConsole shows a machine: blue while its guest runs, black otherwise.
func (c *Cloud) serveConsole(w http.ResponseWriter, r *http.Request) {
	id, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, consolePath), "/")
	c.mu.Lock()
	list := all(c, func(v *vm) bool { return v.vmID == id })
	var name, power string
	var on bool
	if len(list) == 1 {
		name, power, on = list[0].name, list[0].power, list[0].guest
	}
	c.mu.Unlock()
	switch {
	case len(list) == 0 || r.URL.Query().Get("sig") == "":
		http.Error(w, "no such blob", http.StatusNotFound)
	case file == "screenshot.png":
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(screen(name, on))
	case file == "serialconsole.log":
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%s: %s\n", name, power)
		if on {
			fmt.Fprintf(w, "%s login: \n", name)
		}
	default:
		http.Error(w, "no such blob", http.StatusNotFound)
	}
}

// screen draws bars that differ by name.
func screen(name string, on bool) []byte {
	const w, h = 160, 100
	m := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Black, color.RGBA{0, 0x33, 0x99, 0xff}, color.White})
	if on {
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(name))
		for i := range m.Pix {
			m.Pix[i] = 1
			if y := i / w; y > 40 && y < 60 && sum.Sum32()>>(i%w/5)&1 == 1 {
				m.Pix[i] = 2
			}
		}
	}
	var b bytes.Buffer
	_ = png.Encode(&b, m) // to memory
	return b.Bytes()
}
