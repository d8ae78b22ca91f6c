package azbucket

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
)

// failed says what was done to which object. What it wraps can be looked into,
// but is told in few words: the SDK's errors are pages long, and those of the
// transport name the whole URL, in which there may be a signature.
func failed(op, name string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var r *azcore.ResponseError
	if errors.As(err, &r) {
		err = &answer{r}
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

// answer is an error that the service told.
type answer struct{ r *azcore.ResponseError }

func (a *answer) Error() string {
	code := a.r.ErrorCode
	if code == "" {
		code = http.StatusText(a.r.StatusCode)
	}
	text := fmt.Sprintf("Azure answered %d %s", a.r.StatusCode, code)
	if a.r.RawResponse != nil {
		if id := a.r.RawResponse.Header.Get("x-ms-request-id"); id != "" {
			text += ", request " + id
		}
	}
	return text
}

func (a *answer) Unwrap() error { return a.r }

// missing tells that there is no such blob; that the container isn't there is
// another matter.
func missing(err error) bool { return bloberror.HasCode(err, bloberror.BlobNotFound) }

// refused tells that a condition of the request didn't hold.
func refused(err error) bool {
	return bloberror.HasCode(err, bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.TargetConditionNotMet)
}
