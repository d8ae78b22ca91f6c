package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/pageblob"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// connect opens both sites as a program would that knows only their addresses.
// With real ones the URLs, the logins and the transport differ, nothing else.
func connect(ctx context.Context, dir string) (_ replication.Sites, at addresses, closeAll func() error, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "sites.json"))
	if err != nil {
		return nil, at, nil, fmt.Errorf("the sites are not there: run plan -dir %s sites: %w", dir, err)
	}
	if err := json.Unmarshal(raw, &at); err != nil {
		return nil, at, nil, err
	}
	var closers []func() error
	closeAll = func() (err error) {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	u, err := url.Parse(at.VCenter)
	if err != nil {
		return nil, at, nil, err
	}
	v, err := vmware.Open(ctx, vmware.Options{URL: u, Insecure: true, Transports: []vmware.Transport{vmware.Servers(diskServer{dir})}})
	if err != nil {
		return nil, at, nil, err
	}
	closers = append(closers, func() error { return v.Close(context.Background()) })

	staging, err := at.container("staging")
	if err != nil {
		return nil, at, nil, err
	}
	points, err := at.container("points")
	if err != nil {
		return nil, at, nil, err
	}
	az, err := azure.Open(azure.Options{
		Subscription: at.Subscriber, Credential: anybody{}, ARM: at.arm(), ResourceGroup: group, Location: at.Location, Staging: staging,
		StorageAccount: fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s", at.Subscriber, group, account),
		DrillNetwork:   "drill", Poll: 2 * time.Millisecond,
	})
	if err != nil {
		return nil, at, nil, err
	}
	closers = append(closers, func() error { return az.Close(context.Background()) })
	vaulted, err := vault.OpenDir(filepath.Join(dir, "points"), vault.Options{})
	if err != nil {
		return nil, at, nil, err
	}
	closers = append(closers, vaulted.Close)
	return replication.Sites{
		home: {Backend: v, Points: vaulted},
		away: {Backend: az, Points: pageblob.New(points, pageblob.Options{})},
	}, at, closeAll, nil
}

func (at addresses) container(name string) (*container.Client, error) {
	cred, err := container.NewSharedKeyCredential(account, at.Key)
	if err != nil {
		return nil, err
	}
	return container.NewClientWithSharedKeyCredential(at.Blobs+"/"+name, cred, nil)
}

// arm points the SDK's clients at the simulator. For Azure itself it is nil.
func (at addresses) arm() *arm.ClientOptions {
	return &arm.ClientOptions{DisableRPRegistration: true, ClientOptions: policy.ClientOptions{
		InsecureAllowCredentialWithHTTP: true, // it serves on loopback only
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: at.ARM, Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: at.ARM, Audience: at.ARM},
		}},
		Retry: policy.RetryOptions{RetryDelay: 5 * time.Millisecond, MaxRetryDelay: 100 * time.Millisecond},
	}}
}

// anybody is a credential that the simulator takes; for Azure itself it is one
// of package azidentity.
type anybody struct{}

func (anybody) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "simulated", ExpiresOn: time.Now().Add(24 * time.Hour)}, nil
}

// diskServer asks the sites to serve a disk. A real one is vmware.VDDK.
type diskServer struct{ dir string }

func (s diskServer) ServeDisk(ctx context.Context, r vmware.DiskRequest) (string, func() error, error) {
	body, err := json.Marshal(diskRequest{VM: r.VM, Snapshot: r.Snapshot, File: r.File})
	if err != nil {
		return "", nil, err
	}
	// The request lasts as long as the disk is served.
	lasting, end := context.WithCancel(context.WithoutCancel(ctx))
	stopEarly := context.AfterFunc(ctx, end)
	defer stopEarly()
	req, err := http.NewRequestWithContext(lasting, http.MethodPost, "http://sites/disk", bytes.NewReader(body))
	if err == nil {
		var resp *http.Response
		if resp, err = over(filepath.Join(s.dir, "sites.sock")).Do(req); err == nil {
			line, readErr := bufio.NewReader(resp.Body).ReadString('\n')
			if readErr == nil && resp.StatusCode == http.StatusOK {
				return strings.TrimSpace(line), func() error { end(); return resp.Body.Close() }, nil
			}
			err = errors.Join(fmt.Errorf("the sites answer %s", resp.Status), readErr, resp.Body.Close())
		}
	}
	end()
	return "", nil, err
}

// over is an HTTP client of a Unix socket.
func over(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}
