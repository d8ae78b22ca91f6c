package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/remote/enrol"
)

// flags parses options, all of which are named, and says which are missing.
func flags(name string, args []string, need []string, define func(*flag.FlagSet)) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	define(f)
	if err := f.Parse(args); err != nil {
		return wrongUsage("%v", err)
	}
	if f.NArg() > 0 {
		return wrongUsage("%q is no option", f.Arg(0))
	}
	for _, n := range need {
		if f.Lookup(n).Value.String() == "" {
			return wrongUsage("%s: --%s is needed", name, n)
		}
	}
	return nil
}

// list collects the values of an option that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// authority serves enrolment until ctx ends. Its first line on out is the address,
// its second the pin.
func authority(ctx context.Context, args []string, out, errs io.Writer) error {
	var dir, listen string
	var hosts list
	var life time.Duration
	var asJSON bool
	if err := flags("authority", args, []string{"dir", "listen", "host"}, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "")
		f.StringVar(&listen, "listen", "", "")
		f.Var(&hosts, "host", "")
		f.DurationVar(&life, "life", 0, "")
		f.BoolVar(&asJSON, "json", false, "")
	}); err != nil {
		return err
	}
	if err := asOwner(dir); err != nil {
		return err
	}
	log := logger(errs, asJSON)
	a, err := enrol.OpenAuthority(dir, enrol.AuthorityOptions{Life: life, Log: log})
	if err != nil {
		return err
	}
	conf, err := a.ServerTLS(hosts...)
	if err != nil {
		return err
	}
	pin, err := a.Pin(ctx)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ln.Addr())
	fmt.Fprintln(out, pin)
	srv := &http.Server{
		Handler: a.Handler(), MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(ln, conf)) }()
	sweep := time.NewTicker(24 * time.Hour)
	defer sweep.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-sweep.C:
			if err := a.Sweep(ctx); err != nil {
				log.Warn("what has expired couldn't be swept", "err", err)
			}
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := srv.Shutdown(end); err != nil {
				_ = srv.Close()
			}
			<-done
			return nil
		}
	}
}

// token makes one, and prints it and the pin. It works beside a running authority.
func token(ctx context.Context, args []string, out io.Writer) error {
	var dir, role string
	var hosts list
	g := enrol.Grant{}
	if err := flags("token", args, []string{"dir", "name", "role"}, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "")
		f.StringVar(&g.Name, "name", "", "")
		f.StringVar(&role, "role", "", "")
		f.Var(&hosts, "host", "")
		f.DurationVar(&g.TTL, "ttl", time.Hour, "")
	}); err != nil {
		return err
	}
	g.Role, g.Hosts = enrol.Role(role), hosts
	a, err := existing(dir)
	if err != nil {
		return err
	}
	text, err := a.NewToken(ctx, g)
	if err != nil {
		return err
	}
	pin, err := a.Pin(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, text)
	fmt.Fprintln(out, pin)
	return nil
}

// existing opens an authority that is there: a folder that was mistyped, like an
// identity's, must not become another one.
func existing(dir string) (*enrol.Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, "authority", "0001.json")); err != nil {
		return nil, fmt.Errorf("there is no authority: %w", err)
	}
	if err := asOwner(dir); err != nil {
		return nil, err
	}
	return enrol.OpenAuthority(dir, enrol.AuthorityOptions{})
}

// revoke revokes certificates by serial or name.
func revoke(ctx context.Context, args []string, out io.Writer) error {
	var dir, what string
	if err := flags("revoke", args, []string{"dir", "what"}, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "")
		f.StringVar(&what, "what", "", "")
	}); err != nil {
		return err
	}
	a, err := existing(dir)
	if err != nil {
		return err
	}
	n, err := a.Revoke(ctx, what)
	fmt.Fprintf(out, "%d revoked\n", n)
	return err
}

// rotate makes the authority's next key.
func rotate(ctx context.Context, args []string, _ io.Writer) error {
	var dir string
	var after time.Duration
	if err := flags("rotate", args, []string{"dir"}, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "")
		f.DurationVar(&after, "after", 24*time.Hour, "")
	}); err != nil {
		return err
	}
	a, err := existing(dir)
	if err != nil {
		return err
	}
	return a.Rotate(ctx, after)
}

// tokenVariable may hold the token, as arguments can be read by every user of a host.
const tokenVariable = "LIFEBOAT_TOKEN"

// enroll gets this host its identity.
func enroll(ctx context.Context, args []string, out io.Writer) error {
	var dir string
	i := enrol.Invitation{Token: os.Getenv(tokenVariable)}
	if err := flags("enrol", args, []string{"dir", "url", "token", "pin"}, func(f *flag.FlagSet) {
		f.StringVar(&dir, "dir", "", "")
		f.StringVar(&i.URL, "url", "", "")
		f.StringVar(&i.Token, "token", i.Token, "")
		f.StringVar(&i.Pin, "pin", "", "")
	}); err != nil {
		return err
	}
	if err := asOwner(dir); err != nil {
		return err
	}
	id, err := enrol.Enrol(ctx, dir, i, enrol.IdentityOptions{})
	if errors.Is(err, enrol.ErrToken) || errors.Is(err, enrol.ErrPin) {
		return fmt.Errorf("%w: make another token with agent token, and compare the pin", err)
	}
	if err != nil {
		return err
	}
	c := id.Certificate()
	fmt.Fprintf(out, "%s, serial %x, until %s\n", c.Subject.CommonName, c.SerialNumber, c.NotAfter.UTC().Format(time.RFC3339))
	return nil
}
