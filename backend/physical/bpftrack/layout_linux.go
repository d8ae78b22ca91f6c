package bpftrack

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// layout is where this kernel keeps the fields that the programs read, as byte
// offsets, from the kernel's own type information (BTF).
type layout struct {
	bioDev, bioNext, bioOpf, bioSector, bioSize int16 // struct bio
	bdevDisk                                    int16 // struct block_device
	diskMajor, diskMinor                        int16 // struct gendisk
	rqQueue, rqBio, rqFlags, rqSector, rqLen    int16 // struct request
	queueDisk                                   int16 // struct request_queue
	queueArg, completeArg                       int16 // the tracepoints' arguments
	drvOut                                      int32 // REQ_OP_DRV_OUT
}

// kernelLayout fails where the kernel has no BTF, or where one of its types is
// not as this package knows it.
func kernelLayout() (l layout, err error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("the kernel doesn't tell its types: %w", err)
	}
	for _, f := range []struct {
		to   *int16
		in   string
		path []string
		size int
	}{
		{&l.bioDev, "bio", []string{"bi_bdev"}, 8},
		{&l.bioNext, "bio", []string{"bi_next"}, 8},
		{&l.bioOpf, "bio", []string{"bi_opf"}, 4},
		{&l.bioSector, "bio", []string{"bi_iter", "bi_sector"}, 8},
		{&l.bioSize, "bio", []string{"bi_iter", "bi_size"}, 4},
		{&l.bdevDisk, "block_device", []string{"bd_disk"}, 8},
		{&l.diskMajor, "gendisk", []string{"major"}, 4},
		{&l.diskMinor, "gendisk", []string{"first_minor"}, 4},
		{&l.rqQueue, "request", []string{"q"}, 8},
		{&l.rqBio, "request", []string{"bio"}, 8},
		{&l.rqFlags, "request", []string{"cmd_flags"}, 4},
		{&l.rqSector, "request", []string{"__sector"}, 8},
		{&l.rqLen, "request", []string{"__data_len"}, 4},
		{&l.queueDisk, "request_queue", []string{"disk"}, 8},
	} {
		var s *btf.Struct
		if err := spec.TypeByName(f.in, &s); err != nil {
			return l, fmt.Errorf("struct %s: %w", f.in, err)
		}
		bits, size, err := member(s.Members, f.path)
		if err != nil {
			return l, fmt.Errorf("struct %s: %w", f.in, err)
		}
		if size != f.size || bits%8 != 0 || bits/8 > 1<<15-1 {
			return l, fmt.Errorf("struct %s: %v has %d bytes at bit %d", f.in, f.path, size, bits)
		}
		*f.to = int16(bits / 8)
	}
	if l.queueArg, err = argument(spec, "btf_trace_block_bio_queue", "bio"); err != nil {
		return l, err
	}
	if l.completeArg, err = argument(spec, "btf_trace_block_rq_complete", "request"); err != nil {
		return l, err
	}
	l.drvOut, err = constant(spec, "REQ_OP_DRV_OUT", "req_op", "req_opf")
	return l, err
}

// member finds a field by its path, looking into unnamed structs and unions.
func member(members []btf.Member, path []string) (bits uint32, size int, err error) {
	for _, m := range members {
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		switch {
		case m.Name == path[0] && len(path) == 1:
			size, err = btf.Sizeof(m.Type)
			return uint32(m.Offset), size, err
		case m.Name == path[0]:
			bits, size, err = member(inner, path[1:])
			return bits + uint32(m.Offset), size, err
		case m.Name == "" && inner != nil:
			if bits, size, err := member(inner, path); err == nil {
				return bits + uint32(m.Offset), size, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("no field %v", path)
}

// argument tells where in its context a tracepoint's program finds the pointer
// to a struct: some kernels pass the request queue before it.
func argument(spec *btf.Spec, tracepoint, to string) (int16, error) {
	var def *btf.Typedef
	if err := spec.TypeByName(tracepoint, &def); err != nil {
		return 0, fmt.Errorf("tracepoint %s: %w", tracepoint, err)
	}
	if p, ok := def.Type.(*btf.Pointer); ok {
		if f, ok := p.Target.(*btf.FuncProto); ok {
			for i, param := range f.Params {
				p, ok := btf.UnderlyingType(param.Type).(*btf.Pointer)
				if !ok || i == 0 { // the first is the tracepoint's own data
					continue
				}
				if s, ok := btf.UnderlyingType(p.Target).(*btf.Struct); ok && s.Name == to {
					return int16(i-1) * 8, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("tracepoint %s has no struct %s", tracepoint, to)
}

func constant(spec *btf.Spec, name string, enums ...string) (int32, error) {
	for _, in := range enums {
		var e *btf.Enum
		if err := spec.TypeByName(in, &e); err != nil {
			if errors.Is(err, btf.ErrNotFound) {
				continue
			}
			return 0, err
		}
		for _, v := range e.Values {
			if v.Name == name {
				return int32(v.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("no %s in %v", name, enums)
}
