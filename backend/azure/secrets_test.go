package azure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const token = "T0K3N-of-the-test"

var farOff = time.Now().Add(24 * time.Hour)

// bearer hands out a token, and notes for whom.
type bearer struct {
	mu     sync.Mutex
	scopes map[string]bool
}

func (b *bearer) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range o.Scopes {
		b.scopes[s] = true
	}
	return azcore.AccessToken{Token: token, ExpiresOn: farOff}, nil
}

// wire sees what goes over it, and cuts where it is told to.
type wire struct {
	azcoreTransport
	mu    sync.Mutex
	hosts map[string]bool
	cut   func(*http.Request) error
}

type azcoreTransport interface {
	Do(*http.Request) (*http.Response, error)
}

func (w *wire) Do(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.hosts[r.URL.Host] = true
	cut := w.cut
	w.mu.Unlock()
	if cut != nil {
		if err := cut(r); err != nil {
			return nil, &url.Error{Op: "Get", URL: r.URL.String(), Err: err} // as net/http says it
		}
	}
	return w.azcoreTransport.Do(r)
}

// The cloud of Options.ARM reaches every client: its endpoint is asked, for a
// token of its audience, and nobody else is.
func TestOtherClouds(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	b := &bearer{scopes: map[string]bool{}}
	w := &wire{azcoreTransport: r.opts.ARM.Transport, hosts: map[string]bool{}}
	r.opts.Credential = b
	r.opts.ARM.Transport = w
	r.opts.ARM.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: "https://login.sovereign.example", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
		cloud.ResourceManager: {Endpoint: r.cloud.URL(), Audience: "https://management.sovereign.example"}}}
	r.a = r.open(t)
	found, err := r.a.Check(context.Background())
	require.NoError(t, err)
	require.Empty(t, found)
	id := r.started(t, "k", web())
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
	require.NoError(t, err)
	_, err = r.act(azure.ActionScreenshot, azure.AccessInput{Machine: id})
	require.NoError(t, err)
	img := r.capture(t, id, "p", dr.CrashConsistent)
	whole(t, img, web().Disks[0])
	require.NoError(t, img.Close())
	require.NoError(t, r.a.Remove(context.Background(), id))
	require.Equal(t, map[string]bool{"https://management.sovereign.example/.default": true}, b.scopes)
	for host := range w.hosts {
		require.True(t, strings.HasPrefix(host, "127.0.0.1:"), "a client went to %s", host)
	}
}

// Whatever fails, no token, key or signature is in errors, logs or records.
func TestNoSecrets(t *testing.T) {
	isData := func(c azuretest.Call) bool { return c.Service == azuretest.ServiceBlob }
	status := func(when func(azuretest.Call) bool, status int, code string) func(*rig, *wire) {
		return func(r *rig, _ *wire) {
			r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
				if when(c) {
					return &azuretest.Fault{Status: status, Code: code}
				}
				return nil
			})
		}
	}
	signed := func(err error) func(*rig, *wire) {
		return func(_ *rig, w *wire) {
			w.cut = func(q *http.Request) error {
				if strings.Contains(q.URL.RawQuery, "sig=") {
					return err
				}
				return nil
			}
		}
	}
	all := func(azuretest.Call) bool { return true }
	for _, c := range []struct {
		name string
		fail func(*rig, *wire)
	}{
		{"401", status(func(c azuretest.Call) bool { return !isData(c) }, 401, "InvalidAuthenticationToken")},
		{"403", status(all, 403, "AuthorizationFailed")},
		{"403 of the storage", status(isData, 403, "AuthenticationFailed")},
		{"403 of revoking", status(func(c azuretest.Call) bool { return strings.Contains(c.Path, "endGetAccess") }, 403, "AuthorizationFailed")},
		{"the link is cut", signed(errors.New("connection reset by peer"))},
		{"the link ends", signed(io.ErrUnexpectedEOF)},
		{"cancelled", signed(context.Canceled)},
		{"too late", signed(context.DeadlineExceeded)},
		{"an operation's address", func(_ *rig, w *wire) {
			w.cut = func(q *http.Request) error {
				if strings.Contains(q.URL.Path, "operations/") {
					q.URL.RawQuery += "&t=1&s=SECRETOFTHEOPERATION&h=1"
					return errors.New("connection refused")
				}
				return nil
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{})
			var log bytes.Buffer
			w := &wire{azcoreTransport: r.opts.ARM.Transport, hosts: map[string]bool{}}
			r.opts.Credential, r.opts.ARM.Transport = &bearer{scopes: map[string]bool{}}, w
			r.opts.ARM.Retry.MaxRetries = -1
			r.opts.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			r.a = r.open(t)
			ctx := context.Background()
			id, err := r.add([]dr.Disk{{ID: "a", Size: 1 << 20}})
			require.NoError(t, err)
			require.NoError(t, r.power(id, dr.On))
			require.NoError(t, r.capture(t, id, "before", dr.CrashConsistent).Close())
			img := r.capture(t, id, "p", dr.CrashConsistent)
			p := make([]byte, 512)
			read := img.(interface {
				ReadAt(context.Context, dr.DiskID, []byte, int64) (int, error)
			})
			_, err = read.ReadAt(ctx, "a", p, 0)
			require.NoError(t, err)
			replica := r.started(t, "k", web())
			require.NoError(t, r.a.Stop(ctx, replica))

			c.fail(r, w)
			var said []string
			note := func(err error) {
				if err != nil {
					said = append(said, err.Error(), fmt.Sprintf("%+v", err))
				}
			}
			_, err = img.ReadAt(ctx, "a", p, 0)
			note(err)
			for _, err := range img.(dr.Mapper).Extents(ctx, "a") {
				note(err)
			}
			for _, err := range img.(dr.ChangeTracker).Changes(ctx, "a", dr.Point{ID: "before"}) {
				note(err)
			}
			note(img.Close())
			_, err = r.a.Capture(ctx, id, "q", dr.ApplicationConsistent)
			note(err)
			if d, err := r.a.Draft(ctx, replica, dr.Point{ID: "d"}); err == nil {
				_, err = d.WriteAt(ctx, "sda", p, 0)
				note(err)
				note(d.Close())
			} else {
				note(err)
			}
			note(r.a.Release(ctx, id, "p"))
			note(r.a.Start(ctx, replica))
			_, err = r.a.Preflight(ctx, id)
			note(err)
			found, err := r.a.Check(ctx)
			note(err)
			for _, p := range found {
				note(errors.New(p.Text + p.Remedy))
			}
			limited, cancel := context.WithTimeout(ctx, 50_000_000)
			_, err = r.a.Probe(limited, id)
			cancel()
			note(err)
			note(r.a.Remove(ctx, replica))
			r.cloud.OnCall(nil)
			w.cut = nil
			require.NotEmpty(t, said, "nothing failed")
			said = append(said, log.String())
			for pages := r.container.NewListBlobsFlatPager(nil); pages.More(); {
				page, err := pages.NextPage(ctx)
				require.NoError(t, err)
				for _, b := range page.Segment.BlobItems {
					if strings.HasSuffix(*b.Name, ".json") {
						resp, err := r.container.NewBlobClient(*b.Name).DownloadStream(ctx, nil)
						require.NoError(t, err)
						raw, err := io.ReadAll(resp.Body)
						require.NoError(t, err)
						said = append(said, string(raw))
					}
				}
			}
			for _, s := range said {
				for _, secret := range []string{token, "sig=", "SECRETOFTHEOPERATION", "Bearer", "SharedKey"} {
					require.NotContains(t, s, secret)
				}
			}
		})
	}
}
