package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxScreen bounds a screenshot.
const maxScreen = 8 << 20

// Probe implements backend.Prober: a screenshot of the machine's console, by
// boot diagnostics, as soon as there is one; beside it what the guest's agent
// says, if there is one.
func (a *Azure) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	for {
		m, err := a.find(ctx, id)
		if err != nil {
			return backend.Evidence{}, fail("probe", id, "", -1, err)
		}
		if m.power == dr.On {
			ev, err := a.evidence(ctx, m)
			if err == nil {
				return ev, nil
			}
			if !errors.Is(err, errNoScreen) {
				return backend.Evidence{}, fail("probe", id, "", -1, err)
			}
		}
		if err := sleep(ctx, a.opts.Poll); err != nil {
			return backend.Evidence{}, fail("probe", id, "", -1, err)
		}
	}
}

var errNoScreen = errors.New("no screenshot yet")

func (a *Azure) evidence(ctx context.Context, m *machine) (backend.Evidence, error) {
	what := "the machine runs and shows a screen"
	if v := m.vm.Properties.InstanceView; v != nil && v.VMAgent != nil {
		for _, s := range v.VMAgent.Statuses {
			if deref(s.Code) == "ProvisioningState/succeeded" {
				what = "the machine runs, its guest agent is ready (" + deref(v.VMAgent.VMAgentVersion) + ")"
			}
		}
	}
	png, err := a.screen(ctx, m.at)
	if err != nil {
		return backend.Evidence{}, err
	}
	return backend.Evidence{Kind: "screenshot", What: what, Data: png}, nil
}

// screen fetches the console's screenshot.
func (a *Azure) screen(ctx context.Context, at place) ([]byte, error) {
	r, err := a.vms.RetrieveBootDiagnosticsData(ctx, at.group, at.name, &armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataOptions{SasURIExpirationTimeInMinutes: to.Ptr(int32(5))})
	if status, _ := codeOf(err); status == http.StatusConflict || status == http.StatusNotFound {
		return nil, errNoScreen
	}
	if err != nil {
		return nil, explain(err)
	}
	url := deref(r.ConsoleScreenshotBlobURI)
	if url == "" {
		return nil, errNoScreen
	}
	req, err := runtime.NewRequest(ctx, http.MethodGet, url)
	if err != nil {
		return nil, errors.New("the screenshot's address makes no sense") // it holds a signature
	}
	resp, err := a.plain.Do(req)
	if err != nil {
		return nil, explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errNoScreen
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxScreen+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxScreen:
		return nil, fmt.Errorf("a screenshot of more than %d bytes", maxScreen)
	case !bytes.HasPrefix(b, []byte("\x89PNG")) && !bytes.HasPrefix(b, []byte("BM")):
		return nil, errNoScreen
	}
	return b, nil
}
