package azure

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// patience asks again where Azure refuses a change because another one of the
// resource is under way: often our own, asked for by a process that died, or by
// a request whose answer was lost. Azure ends it sooner or later.
type patience struct {
	every, most time.Duration
}

// patient are options with patience.
func patient(o *arm.ClientOptions, every time.Duration) *arm.ClientOptions {
	var c arm.ClientOptions
	if o != nil {
		c = *o
	}
	c.PerCallPolicies = append(c.PerCallPolicies[:len(c.PerCallPolicies):len(c.PerCallPolicies)], patience{every, 2 * time.Minute})
	c.PerRetryPolicies = append(c.PerRetryPolicies[:len(c.PerRetryPolicies):len(c.PerRetryPolicies)], guarded{})
	return &c
}

// Do implements policy.Policy.
func (p patience) Do(req *policy.Request) (*http.Response, error) {
	for begun := time.Now(); ; {
		resp, err := req.Clone(req.Raw().Context()).Next()
		if err != nil || resp.StatusCode != http.StatusConflict || !underWay(runtime.NewResponseError(resp)) || time.Since(begun) > p.most {
			return resp, err
		}
		runtime.Drain(resp)
		if err := sleep(req.Raw().Context(), retryAfter(resp, p.every)); err != nil {
			return nil, err
		}
		if err := req.RewindBody(); err != nil {
			return nil, err
		}
	}
}

func underWay(err error) bool {
	var r *azcore.ResponseError
	if !errors.As(err, &r) {
		return false
	}
	switch r.ErrorCode {
	case "AnotherOperationInProgress", "ConflictingConcurrentWriteNotAllowed":
		return true
	case "Conflict": // of many things
		return strings.Contains(r.Error(), "concurrent request")
	}
	return false
}
