package pageblob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// failure names the place of an error. A negative offset is unknown.
func failure(op string, m dr.MachineID, p dr.PointID, disk dr.DiskID, off int64, err error) error {
	var placed *dr.Error
	if errors.As(err, &placed) && placed.Side == dr.StoreSide {
		return err
	}
	e := &dr.Error{Op: op, Side: dr.StoreSide, Machine: m, Point: p, Disk: disk, Off: off, Err: plain(err)}
	var r *serviceError
	if errors.As(e.Err, &r) {
		switch r.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			e.Remedy = "give the account reading, writing, deleting and listing of blobs in the container"
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			e.Remedy = "the storage account is throttled: try later, or with fewer machines at once"
		}
	}
	return e
}

// serviceError is an answer of the service in one line. The SDK's own has
// many, and that of a broken connection tells the address with its signature.
type serviceError struct {
	status int
	code   string
	what   string // method and path
	is     error  // the dr error that it amounts to, or nil
}

func (e *serviceError) Error() string {
	s := fmt.Sprintf("%s: %d %s", e.what, e.status, e.code)
	if e.is != nil {
		s = e.is.Error() + ": " + s
	}
	return s
}

func (e *serviceError) Unwrap() error { return e.is }

// plain says an error without secrets, and in the words of package dr.
func plain(err error) error {
	var r *azcore.ResponseError
	if errors.As(err, &r) {
		e := &serviceError{status: r.StatusCode, code: r.ErrorCode, what: "request"}
		if r.RawResponse != nil && r.RawResponse.Request != nil {
			e.what = r.RawResponse.Request.Method + " " + r.RawResponse.Request.URL.Path
		}
		switch {
		case isLeaseLost(err):
			e.is = dr.ErrFenced
		case r.StatusCode == http.StatusNotFound:
			e.is = dr.ErrNotFound
		case r.StatusCode == http.StatusPreconditionFailed:
			e.is = dr.ErrConflict
		case bloberror.HasCode(err, bloberror.LeaseAlreadyPresent):
			e.is = dr.ErrBusy
		}
		return e
	}
	var u *url.Error
	if errors.As(err, &u) {
		path := ""
		if a, perr := url.Parse(u.URL); perr == nil {
			path = " " + a.Path
		}
		return fmt.Errorf("%s%s: %w", u.Op, path, u.Err)
	}
	return err
}

// isLeaseLost reports that a request came with a lease that is not, or no
// longer, the blob's.
func isLeaseLost(err error) bool {
	return bloberror.HasCode(err, bloberror.LeaseIDMismatchWithBlobOperation, bloberror.LeaseIDMismatchWithLeaseOperation,
		bloberror.LeaseIDMissing, bloberror.LeaseLost, bloberror.LeaseNotPresentWithBlobOperation,
		bloberror.LeaseNotPresentWithLeaseOperation, bloberror.LeaseIsBrokenAndCannotBeRenewed)
}

func status(err error) int {
	var r *azcore.ResponseError
	if errors.As(err, &r) {
		return r.StatusCode
	}
	var s *serviceError
	if errors.As(err, &s) {
		return s.status
	}
	return 0
}

func isNotFound(err error) bool {
	return status(err) == http.StatusNotFound || errors.Is(err, dr.ErrNotFound)
}

// lost says of an object that must be there, and isn't, that the store is
// damaged.
func lost(name string, err error) error {
	if isNotFound(err) {
		return fmt.Errorf("%w: object %s is missing", dr.ErrCorrupt, name)
	}
	return err
}

// ended returns the reason why a context ended, if it did.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
