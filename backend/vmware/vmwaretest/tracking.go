package vmwaretest

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// boundary is where extending a tracked disk was broken.
const boundary = 128 << 30

// queryChangedDiskAreas answers from the marks in the frozen content: what was
// written at or after the sequence that the changeId names.
func queryChangedDiskAreas(s *Simulator, _ *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.QueryChangedDiskAreas)
	body := new(methods.QueryChangedDiskAreasBody)
	v := s.machine(req.This)
	s.mu.Lock()
	f, bad := v.queried(req)
	name := ""
	if f.file != nil {
		name = f.file.name
	}
	s.mu.Unlock()
	if bad != "" {
		body.Fault_ = invalid(bad)
		return body
	}
	size := f.content.Size()
	if req.StartOffset < 0 || req.StartOffset >= size {
		body.Fault_ = invalid("startOffset")
		return body
	}
	if f.track.epoch == "" {
		body.Fault_ = simulator.Fault("Change tracking is not active on "+name, &types.FileFault{File: name})
		return body
	}
	since := int64(1)
	if req.ChangeId != "*" {
		epoch, seq, ok := strings.Cut(req.ChangeId, "/")
		n, err := strconv.ParseInt(seq, 10, 64)
		if !ok || err != nil || epoch != f.track.epoch || n > f.track.seq {
			body.Fault_ = invalid("changeId")
			return body
		}
		since = n
	}
	info := types.DiskChangeInfo{StartOffset: req.StartOffset, Length: size - req.StartOffset}
	var p object.DatastorePath
	p.FromString(name)
	if req.ChangeId == "*" && s.wholeMap[p.Datastore] {
		info.ChangedArea = []types.DiskChangeExtent{{Start: req.StartOffset, Length: info.Length}}
	} else {
		s.areas(&info, f, max(since, f.track.blind))
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: info}
	return body
}

// queried finds what a query is about, or the parameter that is wrong.
func (v *VM) queried(req *types.QueryChangedDiskAreas) (frozen, string) {
	if req.Snapshot == nil {
		f := v.disks[req.DeviceKey]
		switch {
		case v.on:
			return frozen{}, "snapshot"
		case f == nil:
			return frozen{}, "deviceKey"
		}
		t := *f.track
		t.seq++
		return frozen{file: f, content: f.content, track: t}, ""
	}
	disks, ok := v.snapshots[*req.Snapshot]
	if !ok {
		return frozen{}, "snapshot"
	}
	if disks[req.DeviceKey] == nil {
		return frozen{}, "deviceKey"
	}
	return *disks[req.DeviceKey], ""
}

func (s *Simulator) areas(info *types.DiskChangeInfo, f frozen, since int64) {
	from, end := info.StartOffset, info.StartOffset+info.Length
	for a := range f.content.written(since, from) {
		to := a.off + a.n
		if b := f.track.broken; b > 0 {
			to = min(to, b)
		}
		a.off = max(a.off, from)
		if a.off >= to {
			continue
		}
		if len(info.ChangedArea) == s.options.MaxAreas {
			last := info.ChangedArea[len(info.ChangedArea)-1]
			end = last.Start + last.Length
			break
		}
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: a.off, Length: to - a.off})
	}
	info.Length = end - from
}

func invalid(property string) *soap.Fault {
	return simulator.Fault("A specified parameter was not correct: "+property, &types.InvalidArgument{InvalidProperty: property})
}

// setTracking is what changeTrackingEnabled does. s.mu is held.
func (v *VM) setTracking(on bool) {
	v.tracking = on
	for _, f := range v.disks {
		switch {
		case !on:
			f.track.end()
		case f.track.epoch != "":
		case len(v.snapshots) > 0:
			if v.s.options.Bugs.TrackingUnderSnapshots {
				f.track.begin()
				f.track.blind = f.track.seq
			}
		case !v.on:
			f.track.begin()
		}
	}
}

// extend grows a link. s.mu is held.
func (s *Simulator) extend(f *vmdkFile, size int64) {
	old := f.content.Size()
	if size <= old {
		return
	}
	f.content.resize(size)
	if s.options.Bugs.ExtendPast128GiB && f.track.epoch != "" && old/boundary != size/boundary && f.track.broken == 0 {
		f.track.broken = old
	}
}
