package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// vcenter says how to reach vSphere, in the words of govc, and how to read disks.
type vcenter struct {
	address    string // of the environment; may hold a password
	flag       string // of the command line, where others can read it
	insecure   bool
	caCerts    string
	knownHosts string

	vddk, nbdkit, transport, appliance string

	options vmware.Options // of all that, by complete
}

// environment reads what govc reads.
func (c *vcenter) environment() {
	c.address = os.Getenv("GOVC_URL")
	c.insecure, _ = strconv.ParseBool(os.Getenv("GOVC_INSECURE"))
	c.caCerts = os.Getenv("GOVC_TLS_CA_CERTS")
	c.knownHosts = os.Getenv("GOVC_TLS_KNOWN_HOSTS")
}

func (c *vcenter) flags(fs *flag.FlagSet) {
	fs.StringVar(&c.flag, "u", "", "")
	fs.BoolVar(&c.insecure, "k", c.insecure, "")
	fs.StringVar(&c.caCerts, "tls-ca-certs", c.caCerts, "")
	fs.StringVar(&c.knownHosts, "tls-known-hosts", c.knownHosts, "")
	fs.StringVar(&c.vddk, "vddk", "", "")
	fs.StringVar(&c.nbdkit, "nbdkit", "", "")
	fs.StringVar(&c.transport, "transport", "", "")
	fs.StringVar(&c.appliance, "appliance", "", "")
}

func (c *vcenter) complete() error {
	address := cmp.Or(c.flag, c.address)
	if address == "" {
		return wrongUsage("which server? Set GOVC_URL or give -u; see %s --help", program)
	}
	u, err := soap.ParseURL(address)
	if err != nil || u == nil || u.Host == "" {
		// It isn't repeated: it may hold a password.
		return wrongUsage("the server's address makes no sense: it is [https://][user@]host[:port][/sdk]")
	}
	user := u.User.Username()
	password, has := u.User.Password()
	if has && c.flag != "" {
		return wrongUsage("-u: no password may be on the command line, where others can read it: set GOVC_PASSWORD")
	}
	u.User = nil
	for _, x := range []struct {
		name string
		to   *string
	}{{"GOVC_USERNAME", &user}, {"GOVC_PASSWORD", &password}} {
		v, err := session.Secret(os.Getenv(x.name)) // the content, if it names a file
		if err != nil {
			return fmt.Errorf("read $%s: %w", x.name, err)
		}
		if v != "" {
			*x.to = v
		}
	}
	if user == "" || password == "" {
		return wrongUsage("no user or no password: set GOVC_USERNAME and GOVC_PASSWORD")
	}
	c.options = vmware.Options{URL: u, User: user, Password: password, Insecure: c.insecure, CAFile: c.caCerts}
	if c.options.Thumbprint, err = thumbprintOf(u, c.knownHosts); err != nil {
		return err
	}
	return c.transports()
}

// transports are the ways to read disks.
func (c *vcenter) transports() error {
	known := map[string]vmware.Transport{
		"vddk":   &vmware.VDDK{LibDir: c.vddk, Nbdkit: c.nbdkit},
		"folder": vmware.Folder(),
		"nfc":    vmware.NFC(),
		"hotadd": &vmware.HotAdd{Appliance: dr.MachineID(strings.ToLower(c.appliance))},
	}
	if c.transport == "" {
		if c.vddk != "" {
			c.options.Transports = []vmware.Transport{known["vddk"]} // behind it stand folder and nfc
		}
		return nil
	}
	c.options.Force = true
	for name := range strings.SplitSeq(c.transport, ",") {
		t, ok := known[name]
		switch {
		case !ok:
			return wrongUsage("--transport %s: want vddk, hotadd, folder or nfc", name)
		case name == "hotadd" && c.appliance == "":
			return wrongUsage("--transport hotadd: --appliance must say which machine this runs in")
		}
		c.options.Transports = append(c.options.Transports, t)
	}
	return nil
}

// thumbprintOf looks a server up in files as govc reads them: lines of host
// and thumbprint, with the port if it isn't 443. "" if it isn't there.
func thumbprintOf(u *url.URL, files string) (string, error) {
	for _, name := range filepath.SplitList(files) {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("known hosts: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) == 2 && strings.TrimSuffix(f[0], ":443") == strings.TrimSuffix(u.Host, ":443") {
				return f[1], nil
			}
		}
	}
	return "", nil
}

// open logs in.
func (c *vcenter) open(ctx context.Context, log *slog.Logger) (*vmware.VSphere, error) {
	c.options.Log = log
	v, err := vmware.Open(ctx, c.options)
	if err == nil || ctx.Err() != nil {
		return v, err
	}
	// The library speaks of its options, people here of govc's.
	host := c.options.URL.Host
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return nil, fmt.Errorf("%w: the certificate of %s isn't trusted: %w: see that it is the server's (govc about.cert -k), then give --tls-ca-certs or --tls-known-hosts; -k trusts anybody", errConnect, host, untrusted.Err)
	case fault.Is(err, &types.InvalidLogin{}):
		return nil, fmt.Errorf("%w: %s refuses the login of %s: check GOVC_USERNAME and GOVC_PASSWORD", errConnect, host, c.options.User)
	}
	var e *dr.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return nil, fmt.Errorf("%w: %w: check the address, that its port can be reached from here, and the certificate or thumbprint", errConnect, err)
}

// datacenter is the last part of a name or path.
func datacenter(s string) string {
	if s == "" {
		return ""
	}
	return path.Base(s)
}
