package vmwaretest

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Simulator is a running vCenter. All methods are safe for concurrent use.
type Simulator struct {
	// URL is the SDK's address with user and password, as govmomi.NewClient
	// takes it. The certificate is self-signed: clients must be told so.
	URL *url.URL

	options Options
	model   *simulator.Model
	server  *simulator.Server
	faults  faults
	traffic traffic
	latency atomic.Int64

	datastores sync.Map     // by name, found so far
	vcsim      sync.RWMutex // one change inside vcsim at a time, and no answers being written meanwhile; taken before any object's lock

	mu       sync.Mutex // the last to be taken, after objects' locks
	closed   bool
	pending  map[types.ManagedObjectReference]chan struct{} // tasks of ours that run
	files    map[string]*vmdkFile
	machines map[types.ManagedObjectReference]*VM
	sessions map[string]*session
	waits    map[*wait]bool
	deny     map[string]bool
	leases   map[string]*lease
	wholeMap map[string]bool // datastores that answer "*" with the whole disk
	nfcOpen  int
	tickets  map[string]ticket // transfers of guests' files that were asked for
	pid      int64             // of the last program that was started in a guest
	objectID int64
}

// New starts a simulator that ends with the test.
func New(t testing.TB, o Options) *Simulator {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts a simulator outside of a test; it runs until Close.
func Start(o Options) (*Simulator, error) {
	o.setDefaults()
	m := simulator.VPX()
	m.Datacenter, m.Cluster, m.Host, m.Machine, m.Portgroup, m.Datastore = 0, 0, 0, 0, 0, 0
	if err := m.Create(); err != nil {
		return nil, fmt.Errorf("vmwaretest: start vcsim: %w", err)
	}
	s := &Simulator{
		options: o, model: m,
		files:    map[string]*vmdkFile{},
		machines: map[types.ManagedObjectReference]*VM{},
		sessions: map[string]*session{},
		waits:    map[*wait]bool{},
		leases:   map[string]*lease{},
		pending:  map[types.ManagedObjectReference]chan struct{}{},
		wholeMap: map[string]bool{},
	}
	if err := s.build(); err != nil {
		m.Remove()
		return nil, fmt.Errorf("vmwaretest: build the inventory: %w", err)
	}
	s.latency.Store(int64(o.Latency))
	s.ownSessions()
	s.listen()
	return s, nil
}

// listen starts the HTTPS server. Patterns with a method win over vcsim's own,
// which are registered by NewServer.
func (s *Simulator) listen() {
	mux := s.model.Service.ServeMux
	if mux == nil {
		mux = http.NewServeMux()
		s.model.Service.ServeMux = mux
	}
	mux.HandleFunc("POST /sdk", s.serveSDK)
	mux.HandleFunc("POST /sdk/vimService", s.serveSDK)
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost} {
		mux.HandleFunc(method+" /folder/", s.serveFolder)
		mux.HandleFunc(method+" /nfc/", s.serveNFC)
		mux.HandleFunc(method+" "+guestTransfers, s.serveGuest)
	}
	s.model.Service.TLS = new(tls.Config)
	s.model.Service.Listen = &url.URL{User: url.UserPassword(s.options.User, s.options.Password)}
	s.server = s.model.Service.NewServer()
	s.URL = s.server.URL
}

// Close ends all connections and forgets every byte. A second call is a no-op.
func (s *Simulator) Close() {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return
	}
	s.mu.Lock()
	for _, v := range s.machines {
		v.endPrograms()
	}
	s.mu.Unlock()
	s.server.CloseClientConnections()
	s.server.Close()
	s.mu.Lock()
	pending := slices.Collect(maps.Values(s.pending))
	s.mu.Unlock()
	for _, done := range pending {
		<-done
	}
	s.model.Remove()
}

// SetLatency changes Options.Latency from now on.
func (s *Simulator) SetLatency(d time.Duration) { s.latency.Store(int64(d)) }

// context is what one call runs under: vcsim's locks belong to a context, and
// what shares one shares its locks.
func (s *Simulator) context() *simulator.Context {
	ctx := *s.model.Service.Context
	ctx.Context = context.Background()
	return &ctx
}

// inspect calls f with the machine's object locked.
func (s *Simulator) inspect(ref types.ManagedObjectReference, f func(*simulator.Context, *simulator.VirtualMachine)) bool {
	ctx := s.context()
	vm, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
	if ok {
		ctx.WithLock(vm, func() { f(ctx, vm) })
	}
	return ok
}
