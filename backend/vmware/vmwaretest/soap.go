package vmwaretest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// public calls need no session.
var public = map[string]bool{
	"RetrieveServiceContent": true, "Login": true, "LoginByToken": true,
	"LoginExtensionByCertificate": true, "CloneSession": true,
}

// override answers a call in vcsim's place. A nil answer leaves it to vcsim.
type override func(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault

// overrides are by the type of the object and the name of the method. What is
// not listed is vcsim's.
var overrides = map[string]override{
	"VirtualMachine.CreateSnapshot_Task":                createSnapshot,
	"VirtualMachine.CreateSnapshotEx_Task":              createSnapshotEx,
	"VirtualMachine.RemoveAllSnapshots_Task":            removeAllSnapshots,
	"VirtualMachine.RevertToCurrentSnapshot_Task":       revertToCurrent,
	"VirtualMachineSnapshot.RemoveSnapshot_Task":        removeSnapshot,
	"VirtualMachineSnapshot.RevertToSnapshot_Task":      revertToSnapshot,
	"VirtualMachine.ConsolidateVMDisks_Task":            consolidateDisks,
	"VirtualMachine.QueryChangedDiskAreas":              queryChangedDiskAreas,
	"VirtualMachine.ReconfigVM_Task":                    reconfigure,
	"VirtualMachine.RelocateVM_Task":                    relocate,
	"VirtualMachine.CloneVM_Task":                       cloneVM,
	"VirtualMachine.Destroy_Task":                       destroy,
	"VirtualMachine.UnregisterVM":                       unregister,
	"Folder.CreateVM_Task":                              createVM,
	"VirtualMachine.PowerOnVM_Task":                     powerOn,
	"VirtualMachine.PowerOffVM_Task":                    powerOff,
	"VirtualMachine.SuspendVM_Task":                     suspend,
	"VirtualMachine.ResetVM_Task":                       reset,
	"VirtualMachine.ShutdownGuest":                      shutdownGuest,
	"VirtualMachine.ExportVm":                           exportVM,
	"VirtualMachineSnapshot.ExportSnapshot":             exportSnapshot,
	"ResourcePool.ImportVApp":                           importVApp,
	"HttpNfcLease.HttpNfcLeaseProgress":                 leaseProgress,
	"HttpNfcLease.HttpNfcLeaseComplete":                 leaseComplete,
	"HttpNfcLease.HttpNfcLeaseAbort":                    leaseAbort,
	"HttpNfcLease.HttpNfcLeaseGetManifest":              leaseManifest,
	"VirtualMachine.CustomizeVM_Task":                   customizeVM,
	"AuthorizationManager.HasPrivilegeOnEntities":       hasPrivilegeOnEntities,
	"AuthorizationManager.HasUserPrivilegeOnEntities":   hasUserPrivilegeOnEntities,
	"AuthorizationManager.FetchUserPrivilegeOnEntities": fetchUserPrivilegeOnEntities,
	"GuestProcessManager.StartProgramInGuest":           startProgram,
	"GuestProcessManager.ListProcessesInGuest":          listProcesses,
	"GuestProcessManager.TerminateProcessInGuest":       terminateProcess,
	"GuestFileManager.CreateTemporaryDirectoryInGuest":  createTemporaryDirectory,
	"GuestFileManager.DeleteDirectoryInGuest":           deleteDirectory,
	"GuestFileManager.ListFilesInGuest":                 listFiles,
	"GuestFileManager.InitiateFileTransferToGuest":      transferToGuest,
	"GuestFileManager.InitiateFileTransferFromGuest":    transferFromGuest,
	"VirtualDiskManager.DeleteVirtualDisk_Task":         deleteVirtualDisk,
	"VirtualDiskManager.CopyVirtualDisk_Task":           copyVirtualDisk,
	"VirtualDiskManager.MoveVirtualDisk_Task":           moveVirtualDisk,
	"VirtualDiskManager.ExtendVirtualDisk_Task":         extendVirtualDisk,
	"FileManager.DeleteDatastoreFile_Task":              deleteDatastoreFile,
	"FileManager.MoveDatastoreFile_Task":                moveDatastoreFile,
	"FileManager.CopyDatastoreFile_Task":                copyDatastoreFile,
}

// serveSDK is in front of vcsim: it counts, checks the session and the
// privileges, injects faults, and answers what vcsim doesn't, or not truly.
func (s *Simulator) serveSDK(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		writeSOAP(w, nil, simulator.Fault(err.Error(), &types.InvalidRequest{}))
		return
	}
	s.traffic.call(m.Name)
	if !public[m.Name] && !s.authenticated(r) {
		writeSOAP(w, nil, notAuthenticated(m))
		return
	}
	if !s.delay(r.Context()) {
		return
	}
	if privilege := s.denied(s.sessionUser(cookie(r)), m); privilege != "" {
		writeSOAP(w, nil, simulator.Fault("Permission to perform this operation was denied.", &types.NoPermission{Object: &m.This, PrivilegeId: privilege}))
		return
	}
	fault := s.faults.take(m.Name, m.This)
	if fault == nil {
		s.dispatch(w, r, m, body)
		return
	}
	fault.hold(r.Context())
	isTask := strings.HasSuffix(m.Name, "_Task")
	switch {
	case fault.When == InsteadOfTask && isTask:
		s.replyFailedTask(w, m, fault)
		return
	case fault.When == BeforeEffect || fault.When == InsteadOfTask:
		fault.reply(w)
		return
	}
	rec := httptest.NewRecorder()
	s.dispatch(rec, r, m, body)
	if rec.Code != http.StatusOK {
		relay(w, rec)
		return
	}
	s.settle(rec.Body.Bytes())
	if fault.When == AfterTask && isTask {
		s.replyFailedTask(w, m, fault)
		return
	}
	fault.reply(w)
}

// delay is the latency of a call. It is false if the client has left.
func (s *Simulator) delay(ctx context.Context) bool {
	d := time.Duration(s.latency.Load())
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func notAuthenticated(m *simulator.Method) *soap.Fault {
	fault := &types.NotAuthenticated{}
	fault.Object, fault.PrivilegeId = &m.This, "System.View"
	return simulator.Fault("The session is not authenticated.", fault)
}

// dispatch answers a call from the overrides, or lets vcsim do it.
func (s *Simulator) dispatch(w http.ResponseWriter, r *http.Request, m *simulator.Method, body []byte) {
	if f := overrides[m.This.Type+"."+m.Name]; f != nil {
		ctx := s.context()
		if m.This.Type != "HttpNfcLease" && ctx.Map.Get(m.This) == nil {
			writeSOAP(w, nil, simulator.Fault("managed object not found: "+m.This.String(), &types.ManagedObjectNotFound{Obj: m.This}))
			return
		}
		if res := f(s, ctx, m); res != nil {
			writeSOAP(w, res, res.Fault())
			return
		}
	}
	rec := httptest.NewRecorder()
	s.passOn(rec, r, m, body)
	if s.follow(m, rec); !public[m.Name] && m.Name != "Logout" && !s.authenticated(r) {
		writeSOAP(w, nil, notAuthenticated(m)) // the session expired while the call waited
		return
	}
	relay(w, rec)
}

// passOn lets vcsim answer a call.
func (s *Simulator) passOn(rec *httptest.ResponseRecorder, r *http.Request, m *simulator.Method, body []byte) {
	call := func() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.model.Service.ServeSDK(rec, r)
	}
	s.precede(m, r)
	switch {
	case !reading[m.This.Type]:
		s.vcsim.Lock()
		defer s.vcsim.Unlock()
		call()
		s.settle(rec.Body.Bytes())
	case m.Name == "WaitForUpdatesEx" || m.Name == "WaitForUpdates":
		s.waiting(r, m.This, call)
	default:
		// vcsim writes answers from what changes would change under it.
		s.vcsim.RLock()
		defer s.vcsim.RUnlock()
		call()
	}
}

func relay(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}

var taskInAnswer = regexp.MustCompile(`<returnval[^>]* type="Task"[^>]*>([^<]+)</returnval>`)

// settle waits for the task that an answer names, so that its effect is there.
func (s *Simulator) settle(answer []byte) {
	found := taskInAnswer.FindSubmatch(answer)
	if found == nil {
		return
	}
	ref := types.ManagedObjectReference{Type: "Task", Value: string(found[1])}
	s.done(s.context(), ref)
}

// replyFailedTask answers with a task of its own that fails.
func (s *Simulator) replyFailedTask(w http.ResponseWriter, m *simulator.Method, f *Fault) {
	ref := s.task(s.context(), m.This, m.Name, func() (types.AnyType, types.BaseMethodFault) { return nil, f.fault() })
	res := struct {
		Returnval types.ManagedObjectReference `xml:"returnval"`
	}{ref}
	writeEnvelope(w, http.StatusOK, named{"urn:" + vim25.Namespace, m.Name + "Response", res})
}

type envelope struct {
	XMLName xml.Name `xml:"soapenv:Envelope"`
	Env     string   `xml:"xmlns:soapenv,attr"`
	XSD     string   `xml:"xmlns:xsd,attr"`
	XSI     string   `xml:"xmlns:xsi,attr"`
	Body    struct {
		Content any
	} `xml:"soapenv:Body"`
}

// named writes a value as an element of a name that is known only now.
type named struct {
	space, local string
	value        any
}

func (n named) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	return e.EncodeElement(n.value, xml.StartElement{Name: xml.Name{Space: n.space, Local: n.local}})
}

type faultElement struct {
	XMLName xml.Name `xml:"soapenv:Fault"`
	Code    string   `xml:"faultcode"`
	String  string   `xml:"faultstring"`
	Detail  struct {
		Fault faultValue
	} `xml:"detail"`
}

// faultValue writes a fault under the name and type that clients decode it by.
type faultValue struct{ fault any }

func (v faultValue) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	kind := reflect.TypeOf(v.fault).Elem().Name()
	return e.EncodeElement(v.fault, xml.StartElement{
		Name: xml.Name{Local: kind + "Fault"},
		Attr: []xml.Attr{
			{Name: xml.Name{Local: "xmlns"}, Value: "urn:" + vim25.Namespace},
			{Name: xml.Name{Local: "xsi:type"}, Value: kind},
		},
	})
}

// writeSOAP answers with a fault if there is one, else with res.
func writeSOAP(w http.ResponseWriter, res soap.HasFault, f *soap.Fault) {
	if f != nil {
		el := faultElement{Code: f.Code, String: f.String}
		if el.String == "" {
			el.String = reflect.TypeOf(f.Detail.Fault).Elem().Name()
		}
		el.Detail.Fault = faultValue{f.Detail.Fault}
		writeEnvelope(w, http.StatusInternalServerError, el)
		return
	}
	val := reflect.ValueOf(res).Elem().FieldByName("Res").Elem()
	writeEnvelope(w, http.StatusOK, named{"urn:" + vim25.Namespace, val.Type().Name(), val.Interface()})
}

func writeEnvelope(w http.ResponseWriter, status int, content any) {
	env := envelope{
		Env: "http://schemas.xmlsoap.org/soap/envelope/",
		XSD: "http://www.w3.org/2001/XMLSchema",
		XSI: "http://www.w3.org/2001/XMLSchema-instance",
	}
	env.Body.Content = content
	var out bytes.Buffer
	out.WriteString(xml.Header)
	if err := xml.NewEncoder(&out).Encode(&env); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(status)
	w.Write(out.Bytes())
}
