package temporal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Connect's defaults.
const (
	DefaultAddress     = client.DefaultHostPort // "localhost:7233"
	DefaultNamespace   = client.DefaultNamespace
	DefaultDialTimeout = 20 * time.Second
)

// GoodRetention is how long a namespace should keep runs that have ended. A
// run's ID is refused a second time only as long as Temporal remembers the
// first, and what a report is made of goes with it.
const GoodRetention = 30 * 24 * time.Hour

// ConnectOptions say where Temporal is and who asks. The zero value is a
// server on this machine that speaks plain text.
type ConnectOptions struct {
	Address   string // "host:port"; "" is DefaultAddress
	Namespace string // "" is DefaultNamespace

	// TLS is how the connection is protected; nil is plain text, which is for
	// a server on the same machine. With an API key nil is as &TLS{}: a key
	// never travels in plain text.
	TLS *TLS

	// APIKey is asked before each call, so that keys can be changed while the
	// program runs. It must be quick and safe for concurrent use. Temporal
	// Cloud takes API keys; a server of one's own does if it has an authorizer.
	APIKey func(context.Context) (string, error)
	// APIKeyFile holds the key, with or without a line's end. It is read again
	// when it changes. Not together with APIKey.
	APIKeyFile string

	// Codec encrypts what goes into histories. Everybody who works on a
	// namespace's runs needs one with the same keys. nil: payloads can be read
	// by whoever reads Temporal's database.
	Codec *Codec

	// Identity names this process in histories, for people; "" is PID@HOST.
	Identity string
	// DialTimeout is how long Connect may take; 0: DefaultDialTimeout.
	DialTimeout time.Duration
	// Log gets what the SDK says, and Connect's warnings; nil is silent.
	Log *slog.Logger
	// Metrics gets what the SDK measures; nil: nobody does.
	Metrics client.MetricsHandler
	// DialOptions are added to those of the connection, for proxies and tests.
	DialOptions []grpc.DialOption
}

// Connect returns a client of Temporal for Open. It has talked with the
// server, and found the namespace. The caller closes the client, after all
// engines that use it.
//
// Errors are *dr.Error and say what to do: ErrInvalid for options that can't
// work, ErrNotFound for a namespace that isn't there (EnsureNamespace makes
// it), ErrNotAllowed for one that this client may not use. What may pass (no
// route, a server that isn't up yet) is none of these.
func Connect(ctx context.Context, o ConnectOptions) (client.Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	c, err := dial(ctx, o)
	if err != nil {
		return nil, err
	}
	answer, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
	if err != nil {
		c.Close()
		return nil, o.explain(ctx, "look up namespace "+o.Namespace, err)
	}
	keeps := answer.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
	if keeps < GoodRetention {
		o.Log.WarnContext(ctx, "Temporal's namespace forgets runs early: their IDs can be used again then, and their reports are gone",
			"namespace", o.Namespace, "retention", keeps, "recommended", GoodRetention)
	}
	return c, nil
}

func (o ConnectOptions) withDefaults() (ConnectOptions, error) {
	o.Address = cmp.Or(o.Address, DefaultAddress)
	o.Namespace = cmp.Or(o.Namespace, DefaultNamespace)
	o.DialTimeout = cmp.Or(o.DialTimeout, DefaultDialTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return o, o.invalid(fmt.Sprintf("address %q: %v", o.Address, err), `write it as "host:port"; Temporal's port is 7233 mostly`)
	}
	if o.APIKey != nil && o.APIKeyFile != "" {
		return o, o.invalid("both APIKey and APIKeyFile", "give one of them")
	}
	if o.APIKeyFile != "" {
		f := &keyFile{path: o.APIKeyFile}
		if _, err := f.read(context.Background()); err != nil {
			return o, o.invalid(err.Error(), "the file must hold the API key and nothing else")
		}
		o.APIKey = f.read
	}
	if o.APIKey != nil && o.TLS == nil {
		o.TLS = &TLS{}
	}
	if o.DialTimeout < 0 {
		return o, o.invalid("a negative DialTimeout", "0 is the default")
	}
	return o, nil
}

func (o *ConnectOptions) invalid(what, remedy string) error {
	return &dr.Error{Op: "connect to Temporal", Site: o.Address, Err: fmt.Errorf("%w: %s", dr.ErrInvalid, what), Remedy: remedy}
}

// dial returns a client that has talked with the server. The namespace may not
// be there.
func dial(ctx context.Context, o ConnectOptions) (client.Client, error) {
	opts := client.Options{
		HostPort: o.Address, Namespace: o.Namespace, Identity: o.Identity, MetricsHandler: o.Metrics,
		Logger: log.NewStructuredLogger(o.Log),
		ConnectionOptions: client.ConnectionOptions{
			TLSDisabled: o.TLS == nil, DialOptions: o.DialOptions, GetSystemInfoTimeout: o.DialTimeout,
		},
	}
	if o.TLS != nil {
		cfg, err := o.TLS.config(o.Address)
		if err != nil {
			return nil, o.invalid(err.Error(), "look at the files that TLS names, and who may read them")
		}
		opts.ConnectionOptions.TLS = cfg
	}
	if o.APIKey != nil {
		opts.Credentials = client.NewAPIKeyDynamicCredentials(o.APIKey)
	}
	if o.Codec != nil {
		opts.DataConverter = o.Codec.DataConverter()
		opts.FailureConverter = temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
			DataConverter: opts.DataConverter, EncodeCommonAttributes: true})
	}
	c, err := client.DialContext(ctx, opts)
	if err != nil {
		return nil, o.explain(ctx, "connect to Temporal", err)
	}
	return c, nil
}

// explain tells a person what an error of the first calls means. Whether the
// server speaks TLS is found out by trying, because gRPC doesn't say.
func (o *ConnectOptions) explain(ctx context.Context, op string, err error) error {
	e := &dr.Error{Op: op, Site: o.Address, Err: err}
	var (
		noNamespace *serviceerror.NamespaceNotFound
		notFound    *serviceerror.NotFound
		denied      *serviceerror.PermissionDenied
	)
	switch {
	case errors.As(err, &noNamespace), errors.As(err, &notFound):
		e.Err = fmt.Errorf("%w: namespace %s: %v", dr.ErrNotFound, o.Namespace, err)
		e.Remedy = fmt.Sprintf("make it: EnsureNamespace, or `temporal operator namespace create --namespace %s --retention 720h`; in Temporal Cloud, its console", o.Namespace)
	case errors.As(err, &denied), isUnauthenticated(err):
		e.Err = fmt.Errorf("%w: %v", dr.ErrNotAllowed, err)
		e.Remedy = "the server refuses this client: look at the API key or the client certificate, and at what it may do in namespace " + o.Namespace
	default:
		// The caller's time may be up; finding out why takes some of its own.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnosisTime)
		defer cancel()
		remedy, why := o.diagnose(ctx)
		if why != nil {
			e.Err = fmt.Errorf("%w: %w", why, err)
		}
		e.Remedy = remedy
	}
	return e
}
