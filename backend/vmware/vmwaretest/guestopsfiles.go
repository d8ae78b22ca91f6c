package vmwaretest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// guestFile is a file or a folder of a guest, in memory.
type guestFile struct {
	folder  bool
	data    []byte
	changed time.Time
}

// ticket is the address of one transfer.
type ticket struct {
	vm     *VM
	file   string
	upload bool
}

// Transfers of guests, as names of faults: "GET /guest" and "PUT /guest".
const guestTransfers = "/guest/"

// PutGuestFile writes a file in the guest, as a program of it does. Of a guest
// with a Shell it is a file of this machine, below that.
func (v *VM) PutGuestFile(name string, data []byte) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.guest.Shell != "" {
		if !v.below(name) {
			return os.ErrNotExist
		}
		return os.WriteFile(name, data, 0o600)
	}
	v.files()[name] = &guestFile{data: slices.Clone(data), changed: time.Now()}
	return nil
}

// GuestFile reads a file in the guest. The error is os.ErrNotExist if there is
// none.
func (v *VM) GuestFile(name string) ([]byte, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.guest.Shell != "" {
		if !v.below(name) {
			return nil, os.ErrNotExist
		}
		return os.ReadFile(name)
	}
	f := v.files()[name]
	if f == nil || f.folder {
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return slices.Clone(f.data), nil
}

// GuestFiles lists the files and folders that clients and programs have left in
// the guest.
func (v *VM) GuestFiles() []string {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	var all []string
	if root := v.guest.Shell; root != "" {
		filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
			if err == nil && p != root {
				all = append(all, p)
			}
			return nil
		})
		return all
	}
	for name := range v.files() {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// AgeGuestFiles makes everything in the guest look so much older.
func (v *VM) AgeGuestFiles(by time.Duration) {
	for _, name := range v.GuestFiles() {
		v.s.mu.Lock()
		if v.guest.Shell != "" {
			then := time.Now().Add(-by)
			os.Chtimes(name, then, then)
		} else if f := v.files()[name]; f != nil {
			f.changed = f.changed.Add(-by)
		}
		v.s.mu.Unlock()
	}
}

// files are in memory. s.mu is held.
func (v *VM) files() map[string]*guestFile {
	if v.inGuest == nil {
		v.inGuest = map[string]*guestFile{}
	}
	return v.inGuest
}

// below tells whether a file of this machine is the guest's. s.mu is held.
func (v *VM) below(name string) bool {
	rel, err := filepath.Rel(v.guest.Shell, name)
	return err == nil && rel != "." && filepath.IsLocal(rel)
}

// melted waits until what is written to a folder can be: memory never freezes.
func (v *VM) melted(name string) {
	if strings.HasPrefix(name, "/run/") || strings.HasPrefix(name, "/dev/shm/") {
		return
	}
	for {
		v.s.mu.Lock()
		wait := v.frozen && v.on && !v.s.closed && v.guest.Shell == ""
		v.s.mu.Unlock()
		if !wait {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func createTemporaryDirectory(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.CreateTemporaryDirectoryInGuest), &methods.CreateTemporaryDirectoryInGuestBody{}
	v, g, fault := s.guestOf(ctx, req.Vm, req.Auth)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	base, sep := req.DirectoryPath, "/"
	switch {
	case g.Shell != "":
		base = g.Shell
	case v.windows() && base == "":
		base = `C:\Windows\TEMP`
	case base == "":
		base = "/tmp"
	}
	if v.windows() {
		sep = `\`
	}
	name := base + sep + req.Prefix + "vmware" + uuid.NewString()[:8] + req.Suffix
	v.melted(name)
	s.mu.Lock()
	if g.Shell != "" {
		if err := os.Mkdir(name, 0o700); err != nil {
			fault = &types.FileFault{File: name}
		}
	} else {
		v.files()[name] = &guestFile{folder: true, changed: time.Now()}
	}
	s.mu.Unlock()
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.CreateTemporaryDirectoryInGuestResponse{Returnval: name}
	return body
}

func deleteDirectory(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.DeleteDirectoryInGuest), &methods.DeleteDirectoryInGuestBody{}
	v, g, fault := s.guestOf(ctx, req.Vm, req.Auth)
	if fault == nil {
		v.melted(req.DirectoryPath)
		fault = v.deleteFolder(g, req.DirectoryPath, req.Recursive)
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.DeleteDirectoryInGuestResponse)
	return body
}

func (v *VM) deleteFolder(g Guest, name string, recursive bool) types.BaseMethodFault {
	gone := &types.FileNotFound{FileFault: types.FileFault{File: name}}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if g.Shell != "" {
		if _, err := os.Stat(name); err != nil || !v.below(name) {
			return gone
		}
		if err := os.RemoveAll(name); err != nil {
			return &types.FileFault{File: name}
		}
		return nil
	}
	if f := v.files()[name]; f == nil || !f.folder {
		return gone
	}
	var inside []string
	for other := range v.files() {
		if strings.HasPrefix(other, name+"/") || strings.HasPrefix(other, name+`\`) {
			inside = append(inside, other)
		}
	}
	if len(inside) > 0 && !recursive {
		return &types.DirectoryNotEmpty{FileFault: types.FileFault{File: name}}
	}
	for _, other := range append(inside, name) {
		delete(v.files(), other)
	}
	return nil
}

func listFiles(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.ListFilesInGuest), &methods.ListFilesInGuestBody{}
	v, g, fault := s.guestOf(ctx, req.Vm, req.Auth)
	pattern, err := regexp.Compile(req.MatchPattern)
	if fault == nil && err != nil {
		fault = &types.InvalidArgument{InvalidProperty: "matchPattern"}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	all := v.list(g, req.FilePath, pattern)
	most := int(req.MaxResults)
	if most <= 0 {
		most = 50 // as the API documents
	}
	from := min(int(req.Index), len(all))
	page := all[from:min(len(all), from+most)]
	body.Res = &types.ListFilesInGuestResponse{Returnval: types.GuestListFileInfo{Files: page, Remaining: int32(len(all) - from - len(page))}}
	return body
}

// list names what is in a folder, "." and ".." as well, as real tools do.
func (v *VM) list(g Guest, folder string, pattern *regexp.Regexp) []types.GuestFileInfo {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	var all []types.GuestFileInfo
	add := func(name string, isFolder bool, size int64, changed time.Time) {
		if !pattern.MatchString(name) {
			return
		}
		kind := types.GuestFileTypeFile
		if isFolder {
			kind = types.GuestFileTypeDirectory
		}
		all = append(all, types.GuestFileInfo{Path: name, Type: string(kind), Size: size, Attributes: &types.GuestFileAttributes{ModificationTime: &changed}})
	}
	add(".", true, 0, time.Now())
	add("..", true, 0, time.Now())
	if g.Shell != "" {
		entries, _ := os.ReadDir(g.Shell)
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				add(e.Name(), e.IsDir(), info.Size(), info.ModTime())
			}
		}
		return all
	}
	for name, f := range v.files() {
		slashed := strings.ReplaceAll(name, `\`, "/")
		if path.Dir(slashed) == strings.TrimSuffix(strings.ReplaceAll(folder, `\`, "/"), "/") {
			add(path.Base(slashed), f.folder, int64(len(f.data)), f.changed)
		}
	}
	slices.SortFunc(all, func(a, b types.GuestFileInfo) int { return strings.Compare(a.Path, b.Path) })
	return all
}

func transferToGuest(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.InitiateFileTransferToGuest), &methods.InitiateFileTransferToGuestBody{}
	v, _, fault := s.guestOf(ctx, req.Vm, req.Auth)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.InitiateFileTransferToGuestResponse{Returnval: s.transferURL(ticket{v, req.GuestFilePath, true})}
	return body
}

func transferFromGuest(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req, body := m.Body.(*types.InitiateFileTransferFromGuest), &methods.InitiateFileTransferFromGuestBody{}
	v, _, fault := s.guestOf(ctx, req.Vm, req.Auth)
	var data []byte
	if fault == nil {
		var err error
		if data, err = v.GuestFile(req.GuestFilePath); err != nil {
			fault = &types.FileNotFound{FileFault: types.FileFault{File: req.GuestFilePath}}
		}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.InitiateFileTransferFromGuestResponse{Returnval: types.FileTransferInformation{
		Attributes: &types.GuestFileAttributes{}, Size: int64(len(data)), Url: s.transferURL(ticket{v, req.GuestFilePath, false}),
	}}
	return body
}

// transferURL is good for one transfer. Its host is "*", as a host without a
// vCenter answers: whoever asks knows the address.
func (s *Simulator) transferURL(t ticket) string {
	key := uuid.NewString()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tickets == nil {
		s.tickets = map[string]ticket{}
	}
	s.tickets[key] = t
	return "https://*" + guestTransfers + key
}

// serveGuest moves a file into a guest or out of it. The URL is the ticket.
func (s *Simulator) serveGuest(w http.ResponseWriter, r *http.Request) {
	out := &meter{ResponseWriter: w, traffic: &s.traffic, name: Guests, left: -1}
	if f := s.faults.take(r.Method+" /guest", types.ManagedObjectReference{}); f != nil {
		f.transfer(out, r, func(w http.ResponseWriter) { s.transferFile(w, r) })
		return
	}
	s.transferFile(out, r)
}

func (s *Simulator) transferFile(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, guestTransfers)
	s.mu.Lock()
	t, ok := s.tickets[key]
	delete(s.tickets, key)
	s.mu.Unlock()
	if !ok || t.upload != (r.Method == http.MethodPut) {
		http.Error(w, "no such transfer", http.StatusNotFound)
		return
	}
	if t.upload {
		data, err := io.ReadAll(r.Body)
		if err == nil {
			t.vm.melted(t.file)
			err = t.vm.PutGuestFile(t.file, data)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	data, err := t.vm.GuestFile(t.file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Write(data)
}

// windows tells what the guest's paths look like.
func (v *VM) windows() bool {
	v.s.mu.Lock()
	family := v.guest.Family
	v.s.mu.Unlock()
	if family != "" {
		return family == string(types.VirtualMachineGuestOsFamilyWindowsGuest)
	}
	windows := false
	v.s.inspect(v.ref, func(_ *simulator.Context, vm *simulator.VirtualMachine) {
		windows = strings.HasPrefix(vm.Config.GuestId, "win")
	})
	return windows
}
