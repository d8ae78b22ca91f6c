package azure_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// The address of a disk's bytes holds its secret, and what cuts a connection
// tells the address.
func TestErrorsHoldNoSignatures(t *testing.T) {
	e := newErrand(t, "signatures")
	e.step("prepare", e.prepare(""))
	e.step("fill", e.fill("p1", nil))
	e.step("start", func(ctx context.Context) error { return e.a.Start(ctx, e.id) })
	img, err := e.a.Capture(t.Context(), e.id, "c1", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	_, err = img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
	require.NoError(t, err)
	for _, f := range []azuretest.Fault{{Lost: true}, {Status: http.StatusForbidden, Code: "AuthenticationFailed"}, {Status: http.StatusBadGateway}} {
		e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
			if c.Service == azuretest.ServiceBlob {
				return &f
			}
			return nil
		})
		_, err = img.ReadAt(t.Context(), "os", make([]byte, 512), 0)
		require.Error(t, err)
		for x := err; x != nil; x = errors.Unwrap(x) {
			require.NotContains(t, x.Error(), "sig=")
		}
		if f.Lost {
			require.ErrorIs(t, err, io.EOF)
		}
		for x, err := range img.(dr.Mapper).Extents(t.Context(), "os") {
			_ = x
			require.Error(t, err)
			require.NotContains(t, err.Error(), "sig=")
		}
	}
}

// A failure without a body still says what it is.
func TestErrorsKeepCodes(t *testing.T) {
	for _, x := range []struct {
		fault azuretest.Fault
		says  string
		is    error
	}{
		{azuretest.Fault{Status: http.StatusNotFound, Code: "ResourceGroupNotFound"}, "ResourceGroupNotFound", dr.ErrNotFound},
		{azuretest.Fault{Status: http.StatusConflict, Code: "ScopeLocked"}, "ScopeLocked", azure.ErrRefused},
		{azuretest.Fault{Status: http.StatusConflict, Code: "NeverHeardOf"}, "NeverHeardOf", nil},
		{azuretest.Fault{Status: http.StatusConflict}, "Conflict (HTTP 409)", nil},
		{azuretest.Fault{Status: http.StatusForbidden, Code: "LinkedAuthorizationFailed"}, "LinkedAuthorizationFailed", nil},
	} {
		e := newErrand(t, x.says)
		e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
			if c.Service == azuretest.ServiceARM {
				return &x.fault
			}
			return nil
		})
		_, err := e.a.Prepare(t.Context(), e.placement())
		require.ErrorContains(t, err, x.says)
		if x.is != nil {
			require.ErrorIs(t, err, x.is)
		}
		var typed *dr.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, "prepare", typed.Op)
	}
}
