package pageblob

import (
	"net/http"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/internal/azurite"
)

// plainOptions neither pace nor wait.
var plainOptions = Options{BytesPerSecond: -1, RequestsPerSecond: -1}

// once makes clients that ask once, through a transport if there is one.
func once(via policy.Transporter) func(*container.ClientOptions) {
	return func(o *container.ClientOptions) {
		o.Retry.MaxRetries = -1
		o.Transport = web
		if via != nil {
			o.Transport = via
		}
	}
}

// service makes containers.
type service struct {
	name string
	// start returns a function that makes clients of a new, empty container.
	start func(t testing.TB) func(via policy.Transporter) *container.Client
}

var simulated = service{"simulated", func(t testing.TB) func(policy.Transporter) *container.Client {
	b := azuretest.NewBlobs(azuretest.BlobOptions{})
	t.Cleanup(b.Close)
	c, err := b.Container(t.Context(), "account", "points")
	require.NoError(t, err)
	return func(via policy.Transporter) *container.Client {
		_, key := b.Account("account")
		cred, err := container.NewSharedKeyCredential("account", key)
		require.NoError(t, err)
		var o container.ClientOptions
		once(via)(&o)
		c, err := container.NewClientWithSharedKeyCredential(c.URL(), cred, &o)
		require.NoError(t, err)
		return c
	}
}}

var emulated = service{"azurite", func(t testing.TB) func(policy.Transporter) *container.Client {
	s := azurite.Start(t)
	c := s.Container(t, "")
	return func(via policy.Transporter) *container.Client {
		var o container.ClientOptions
		once(via)(&o)
		c, err := container.NewClientWithSharedKeyCredential(c.URL(), s.Credential(t), &o)
		require.NoError(t, err)
		return c
	}
}}

// onBoth runs a test on the simulated service and on Azurite.
func onBoth(t *testing.T, test func(t *testing.T, client func(policy.Transporter) *container.Client)) {
	for _, s := range []service{simulated, emulated} {
		t.Run(s.name, func(t *testing.T) { test(t, s.start(t)) })
	}
}

// web keeps its connections, of which a Process has several.
var web = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}

// round is a transport as a function.
type round func(*http.Request) (*http.Response, error)

func (f round) Do(r *http.Request) (*http.Response, error) { return f(r) }
