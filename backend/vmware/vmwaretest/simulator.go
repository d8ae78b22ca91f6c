package vmwaretest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
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

	mu       sync.Mutex
	closed   bool
	files    map[string]*vmdkFile
	machines map[types.ManagedObjectReference]*VM
	sessions map[string]bool
	leases   map[string]*lease
	wholeMap map[string]bool // datastores that answer "*" with the whole disk
	nfcOpen  int
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
		sessions: map[string]bool{},
		leases:   map[string]*lease{},
		wholeMap: map[string]bool{},
	}
	if err := s.build(); err != nil {
		m.Remove()
		return nil, fmt.Errorf("vmwaretest: build the inventory: %w", err)
	}
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
	s.server.CloseClientConnections()
	s.server.Close()
	s.model.Remove()
}

// context is what one call runs under: vcsim's locks belong to a context, and
// what shares one shares its locks.
func (s *Simulator) context() *simulator.Context {
	ctx := *s.model.Service.Context
	ctx.Context = context.Background()
	return &ctx
}

// task runs f as a task of ref, holding ref's lock.
func (s *Simulator) task(ctx *simulator.Context, ref mo.Reference, name string, f func() (types.AnyType, types.BaseMethodFault)) types.ManagedObjectReference {
	return simulator.CreateTask(ref.Reference(), name, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return f()
	}).Run(ctx)
}

// wait lets vcsim finish what it answered: a fault, or a task with a result.
func wait(ctx *simulator.Context, res soap.HasFault) (types.AnyType, types.BaseMethodFault) {
	if f := res.Fault(); f != nil {
		fault, ok := f.VimFault().(types.BaseMethodFault)
		if !ok {
			fault = &types.SystemError{Reason: f.String}
		}
		return nil, fault
	}
	ref := reflect.ValueOf(res).Elem().FieldByName("Res").Elem().FieldByName("Returnval").Interface().(types.ManagedObjectReference)
	task := ctx.Map.Get(ref).(*simulator.Task)
	task.Wait()
	if task.Info.Error != nil {
		return nil, task.Info.Error.Fault
	}
	return task.Info.Result, nil
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
