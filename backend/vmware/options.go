package vmware

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options says how to reach a vCenter or an ESXi host. URL, User and Password
// are needed; the rest has defaults that work.
type Options struct {
	// URL is the SDK's address; "/sdk" is added where there is no path. A user
	// and password in it count where User and Password are empty.
	URL *url.URL
	// User and Password log in, again whenever the session has died.
	User, Password string

	// CAFile holds the roots in PEM that the server is verified by; "" is the
	// system's roots. Thumbprint, if set, is the SHA-1 or SHA-256 of its
	// certificate, as govc and ESXi print it, and is enough by itself.
	CAFile, Thumbprint string
	// Insecure verifies nothing: whoever is in between learns the password.
	Insecure bool

	// Transports are the ways by which bytes are read and written, the most
	// wanted first. What can't open a disk is passed over, and the log says
	// why. Behind them stand, for reading, [Folder] and [NFC], which need
	// nothing installed; nil means these alone, and no disk can be written.
	Transports []Transport
	// Force refuses what Transports doesn't name.
	Force bool

	// PerHost bounds the disks that are open at once on one ESXi host, 0: 8;
	// Total those through this vCenter, 0: 48. A vCenter gives up at 52.
	PerHost, Total int
	// KeepAlive is how long the session may idle before it is touched; 0: 10
	// minutes. vCenter ends sessions that idle for 30.
	KeepAlive time.Duration
	// TaskLimit bounds the wait for one task of the platform; 0: 30 minutes.
	// Removing a large snapshot may take long; cancelling ctx ends any wait.
	TaskLimit time.Duration

	// GuestAuth gives the login by which programs are run in a machine's guest,
	// through VMware Tools: for [VSphere.Inspect] and for quiescing. It is called
	// each time that one is needed; what it returns is kept nowhere and in no
	// error. Quiescing needs root. Nil, or an empty user, is no way in.
	GuestAuth func(ctx context.Context, m dr.Machine) (user, password string, err error)
	// FreezeLimit is how long a guest that was quiesced may stay frozen before
	// it thaws by itself, in whole seconds; 0: 20 s, at most 60 s.
	FreezeLimit time.Duration
	// FreezeHooks is the folder in Linux guests whose freeze.d and thaw.d hold
	// the programs that are run before file systems freeze and after they thaw;
	// "": /etc/lifeboat.
	FreezeHooks string

	// Log receives what a person may want to know later: the transport that was
	// chosen, and why, quiesces that failed, sessions that were replaced. nil
	// is silent.
	Log *slog.Logger
}

func (o *Options) complete() error {
	if o.URL == nil || o.URL.Host == "" {
		return fmt.Errorf("%w: Options.URL names no server", dr.ErrInvalid)
	}
	u := *o.URL
	if u.Scheme == "" {
		u.Scheme = "https"
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/sdk"
	}
	if u.User != nil && o.User == "" {
		o.User = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	u.User = nil
	o.URL = &u
	if o.User == "" {
		return fmt.Errorf("%w: Options.User is empty", dr.ErrInvalid)
	}
	if o.PerHost < 0 || o.Total < 0 || o.KeepAlive < 0 || o.TaskLimit < 0 {
		return fmt.Errorf("%w: a limit in Options is below 0", dr.ErrInvalid)
	}
	if o.PerHost == 0 {
		o.PerHost = 8
	}
	if o.Total == 0 {
		o.Total = 48
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 10 * time.Minute
	}
	if o.TaskLimit == 0 {
		o.TaskLimit = 30 * time.Minute
	}
	if o.FreezeLimit == 0 {
		o.FreezeLimit = 20 * time.Second
	}
	if o.FreezeLimit < time.Second || o.FreezeLimit > time.Minute {
		return fmt.Errorf("%w: Options.FreezeLimit is not between a second and a minute", dr.ErrInvalid)
	}
	if o.FreezeHooks == "" {
		o.FreezeHooks = "/etc/lifeboat"
	}
	if !safePath(o.FreezeHooks, linux) {
		return fmt.Errorf("%w: Options.FreezeHooks has letters that a shell would take apart", dr.ErrInvalid)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !o.Force {
		o.Transports = append(o.Transports[:len(o.Transports):len(o.Transports)], Folder(), NFC())
	}
	return nil
}
