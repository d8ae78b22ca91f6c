package nbd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// defaultPort is NBD's, assigned by IANA.
const defaultPort = "10809"

// ParseURI reads the notation that qemu, libnbd and nbdkit share
// (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md):
//
//	nbd://host[:port]/export                nbds://host[:port]/export
//	nbd+unix:///export?socket=/path         nbds+unix:///export?socket=/path
//
// The schemes with an s demand TLS, verified. tls-certificates=DIR loads the
// certificates that [LoadTLS] describes, tls-hostname=NAME is the name that
// the server must prove. Any other parameter is refused rather than ignored:
// it may be one that was meant to make the connection safe.
func ParseURI(uri string) (Options, error) {
	o, err := parseURI(uri)
	if err != nil {
		var u *url.Error // repeats the URI
		if errors.As(err, &u) {
			err = u.Err
		}
		if at := strings.LastIndex(uri, "@"); at >= 0 { // a password, perhaps
			uri = "…" + uri[at:]
		}
		return Options{}, fmt.Errorf("nbd: URI %q: %w", uri, err)
	}
	return o, nil
}

func parseURI(uri string) (Options, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Options{}, err
	}
	o := Options{Export: strings.TrimPrefix(u.Path, "/")}
	unix, secure := false, false
	switch u.Scheme {
	case "nbd":
	case "nbds":
		secure = true
	case "nbd+unix":
		unix = true
	case "nbds+unix":
		unix, secure = true, true
	default:
		return Options{}, fmt.Errorf("scheme %q is not one of nbd, nbds, nbd+unix, nbds+unix", u.Scheme)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Options{}, err
	}
	var socket, certificates, name string
	for key, values := range q {
		if len(values) > 1 {
			return Options{}, fmt.Errorf("%s is given twice", key)
		}
		switch key {
		case "socket":
			socket = values[0]
		case "tls-certificates":
			certificates = values[0]
		case "tls-hostname":
			name = values[0]
		default:
			return Options{}, fmt.Errorf("parameter %q is not known", key)
		}
	}
	switch {
	case u.User != nil || u.Fragment != "":
		return Options{}, errors.New("a user or a fragment has no meaning")
	case unix && (socket == "" || u.Host != ""):
		return Options{}, errors.New("a Unix socket is named by ?socket=/path, and has no host")
	case !unix && (socket != "" || u.Hostname() == ""):
		return Options{}, errors.New("a host is needed, and a socket can't be given with it")
	case !secure && certificates+name != "":
		return Options{}, errors.New("certificates without TLS: use nbds or nbds+unix")
	case unix:
		o.Network, o.Address = "unix", socket
	default:
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		o.Network, o.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
	}
	if secure {
		o.TLS = &tls.Config{}
		if certificates != "" {
			if o.TLS, err = LoadTLS(certificates); err != nil {
				return Options{}, err
			}
		}
		o.TLS.ServerName = name
	}
	return o, checkString(o.Export, "export name")
}
