package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// errRefused marks what Azure refuses for reasons of its own: a quota, no
// capacity, a lock. A person, or time, can change that.
var errRefused = errors.New("Azure refuses it")

// errFailing marks what is wrong at Azure itself.
var errFailing = errors.New("Azure failed")

const failing = "Azure itself failed; it is tried again: if it stays so, see Azure's status and ask its support"

// errGuest marks what the guest would have to do.
var errGuest = errors.New("the guest doesn't answer")

// codeOf is Azure's code of a failure, also of one inside a long operation that
// was answered by 200.
func codeOf(err error) (status int, code string) {
	var r *azcore.ResponseError
	if errors.As(err, &r) {
		return r.StatusCode, r.ErrorCode
	}
	return 0, ""
}

func isNotFound(err error) bool {
	status, code := codeOf(err)
	return errors.Is(err, dr.ErrNotFound) || status == http.StatusNotFound ||
		code == "ResourceNotFound" || code == "NotFound" || code == "ResourceGroupNotFound" || code == "BlobNotFound" || code == "ContainerNotFound"
}

// remedies are what codes mean and what to do, of the documentation's
// "Troubleshoot" articles on allocation, quotas, SKUs, locks and throttling.
var remedies = map[string]struct {
	sentinel error
	remedy   string
}{
	"ScopeLocked":                                           {errRefused, "a management lock keeps it from being changed or deleted: remove the lock, or ask who set it"},
	"AllocationFailed":                                      {errRefused, "the region or zone has no room for this size now: try again later, or choose another size (placement option size); another zone takes a replica that is prepared anew"},
	"ZonalAllocationFailed":                                 {errRefused, "the zone has no room for this size now: choose another size (placement option size), or prepare the replica anew in another zone"},
	"OverconstrainedAllocationRequest":                      {errRefused, "no room fits all that is asked of this machine: give up the zone, the availability set or the size"},
	"OverconstrainedZonalAllocationRequest":                 {errRefused, "no room in the zone fits all that is asked of this machine: give up the zone or the size"},
	"SkuNotAvailable":                                       {errRefused, "the size is not to be had in this region or zone: choose another (placement option size)"},
	"QuotaExceeded":                                         {errRefused, "the subscription's quota is used up: ask for more, or remove machines"},
	"AuthorizationFailed":                                   {fs.ErrPermission, "give the credential's principal the role \"Virtual Machine Contributor\" and \"Network Contributor\" on the resource group, and \"Storage Blob Data Contributor\" on the container"},
	"AuthorizationPermissionMismatch":                       {fs.ErrPermission, "give the credential's principal the role \"Storage Blob Data Contributor\" on the container"},
	"InvalidAuthenticationToken":                            {fs.ErrPermission, "log in anew: the credential is of no use any more"},
	"TooManyRequests":                                       {dr.ErrBusy, "Azure throttles the subscription; it is tried again"},
	"OperationNotAllowed":                                   {errRefused, "its message says what to change"},
	"Conflict":                                              {dr.ErrBusy, "another request works on it; it is tried again"},
	"AnotherOperationInProgress":                            {dr.ErrBusy, "another operation works on it; it is tried again"},
	"PrivateIPAddressInUse":                                 {errRefused, "another card has taken the address meanwhile; it is tried again with the next"},
	"SnapshotCountExceeded":                                 {errRefused, "the disk has as many snapshots as Azure allows: remove some"},
	"LeaseIdMismatchWithBlobOperation":                      {dr.ErrFenced, "another process writes to this disk now"},
	"LeaseLost":                                             {dr.ErrFenced, "another process writes to this disk now"},
	"LeaseIdMissing":                                        {dr.ErrFenced, "another process writes to this disk now"},
	"LeaseNotPresentWithBlobOperation":                      {dr.ErrFenced, "another process has taken this disk over"},
	"CannotVerifyCopySource":                                {errRefused, "the storage account can't read what it is to copy"},
	"SubnetIsFull":                                          {errRefused, "the subnet has no free address: choose another (placement's networks)"},
	"NetworkInterfaceLimitReachedPerVMSize":                 {errRefused, "the size takes fewer cards: choose another (placement option size)"},
	"ResourceGroupNotFound":                                 {dr.ErrNotFound, "make the resource group first, or correct Options.ResourceGroup"},
	"ContainerNotFound":                                     {dr.ErrNotFound, "make the container first, or correct Options.Staging"},
	"SubscriptionNotFound":                                  {dr.ErrNotFound, "the credential's tenant has no such subscription"},
	"InternalServerError":                                   {errFailing, failing},
	"InternalExecutionError":                                {errFailing, failing},
	"InternalOperationError":                                {errFailing, failing},
	"OperationPreempted":                                    {dr.ErrBusy, "a later operation has overtaken this one; it is tried again"},
	"ConcurrentSnapshotsCountExceedsLimit":                  {dr.ErrBusy, "too many snapshots of the disk in a short time (7 in 5 minutes): replicate less often"},
	"TooManySnapshotRequests":                               {dr.ErrBusy, "too many snapshots of the disk in a short time (7 in 5 minutes): replicate less often"},
	"ConflictingConcurrentWriteNotAllowed":                  {dr.ErrBusy, "another write to the resource is under way; it is tried again"},
	"RetryableError":                                        {dr.ErrBusy, "Azure asks to try again"},
	"ServerBusy":                                            {dr.ErrBusy, "the storage account is at its limits; it is tried again"},
	"UserErrorCrashConsistentRestorePointNotSupported":      {dr.ErrNotConsistent, "the machine's size or disks allow no consistent restore points"},
	"RestorePointCreationThrottled":                         {dr.ErrNotConsistent, "restore points can be made once an hour (crash-consistent) or every three hours (application-consistent)"},
	"VMExtensionProvisioningError":                          {dr.ErrNotConsistent, "the snapshot extension fails in the guest: see the machine's extensions"},
	"UserErrorVmNotInDesirableState":                        {dr.ErrNotConsistent, "the machine is not in a state in which restore points can be made"},
	"VMSnapshotLinuxFailed":                                 {dr.ErrNotConsistent, "the guest's scripts failed: see its extension's log"},
	"VMAgentStatusCommunicationError":                       {errGuest, "see that the guest's Azure agent is installed and runs, and that the guest has not hung"},
	"ManagedDiskSasLimitExceeded":                           {dr.ErrBusy, "too many addresses to read this disk by are granted (5): end other exports"},
	"CannotGrantAccessToMoreThanMaxAllowedSnapshotsPerDisk": {dr.ErrBusy, "too many addresses to read this disk by are granted (5): end other exports"},
}

// explain makes a failure of Azure an error that callers can branch on, with
// Azure's code and message on one line, and what to do about it. It takes
// nothing of the request: addresses of disks hold secrets.
func explain(err error) error {
	var known *explained
	if err == nil {
		return nil
	}
	err = hide(err)
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var r *azcore.ResponseError
	if !errors.As(err, &r) {
		return err
	}
	code := r.ErrorCode
	if code == "" { // what stands between us and Azure answers as it likes
		code = http.StatusText(r.StatusCode)
	}
	short := fmt.Errorf("%s (HTTP %d)%s", code, r.StatusCode, message(r))
	if r.ErrorCode == "OperationNotAllowed" && strings.Contains(strings.ToLower(short.Error()), "quota") {
		code = "QuotaExceeded" // Compute's word for it
	}
	if say, ok := remedies[code]; ok {
		return &explained{fmt.Errorf("%w: %w", say.sentinel, short), say.remedy, err}
	}
	switch r.StatusCode {
	case http.StatusNotFound:
		return &explained{fmt.Errorf("%w: %w", dr.ErrNotFound, short), "", err}
	case http.StatusPreconditionFailed:
		return &explained{fmt.Errorf("%w: %w", dr.ErrConflict, short), "", err}
	case http.StatusTooManyRequests:
		return &explained{fmt.Errorf("%w: %w", dr.ErrBusy, short), remedies["TooManyRequests"].remedy, err}
	case http.StatusForbidden, http.StatusUnauthorized:
		return &explained{fmt.Errorf("%w: %w", fs.ErrPermission, short), remedies["AuthorizationFailed"].remedy, err}
	}
	return &explained{short, "", err}
}

// message is Azure's own, which the SDK's error buries in the whole answer.
func message(r *azcore.ResponseError) string {
	text := r.Error()
	for _, mark := range []string{`"message": "`, `"message":"`, "<Message>"} {
		if _, after, ok := strings.Cut(text, mark); ok {
			end := strings.IndexAny(after, "\"<\n")
			if end < 0 {
				end = len(after)
			}
			if m := strings.TrimSpace(after[:end]); m != "" && !strings.Contains(m, "sig=") {
				return ": " + m
			}
		}
	}
	return ""
}

// explained carries a remedy to where the place is known.
type explained struct {
	err    error
	remedy string
	cause  error // the SDK's, for its status and code
}

func (e *explained) Error() string { return e.err.Error() }
func (e *explained) Unwrap() []error {
	if e.cause == nil {
		return []error{e.err}
	}
	return []error{e.err, e.cause}
}

// fail says where an error happened. An error that says so already stays.
func fail(op string, id dr.MachineID, disk dr.DiskID, off int64, err error) error {
	if err == nil {
		return nil
	}
	var known *dr.Error
	if errors.As(err, &known) {
		return hide(err)
	}
	err = explain(err)
	out := &dr.Error{Op: op, Machine: id, Disk: disk, Off: off, Err: err}
	var x *explained
	if errors.As(err, &x) {
		out.Remedy = x.remedy
	}
	return out
}

// remedied is an error with what to do about it.
func remedied(err error, remedy string) error { return &explained{err, remedy, nil} }
