package failback_test

import (
	"context"
	"errors"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
)

// errDead is what the calls of a killed process come to.
var errDead = errors.New("the process is dead")

// Methods of stores and records, for interceptors.
const (
	opCreate  backendtest.Op = "Create"
	opOpen    backendtest.Op = "Open"
	opList    backendtest.Op = "List"
	opDelete  backendtest.Op = "Delete"
	opProcess backendtest.Op = "Process"
	opPending backendtest.Op = "Pending"
	opLoad    backendtest.Op = "Load"
	opSave    backendtest.Op = "Save"
)

type ctx = context.Context

func isInjected(err error) bool { return errors.Is(err, backendtest.ErrInjected) }

func through(ctx context.Context, is []backendtest.Interceptor, c backendtest.Call, do func() error) error {
	for i := len(is) - 1; i >= 0; i-- {
		inner, f := do, is[i]
		do = func() error { return f(ctx, c, inner) }
	}
	return do()
}

// store is a store with interceptors around each method, and around its
// images and drafts.
type store struct {
	*memstore.Store
	around []backendtest.Interceptor
}

func (s *store) Create(ctx context.Context, p dr.Point) (d dr.Draft, err error) {
	err = through(ctx, s.around, backendtest.Call{Op: opCreate, Machine: p.Machine.ID, Point: p.ID}, func() error {
		d, err = s.Store.Create(ctx, p)
		return err
	})
	if err != nil {
		if d != nil {
			_ = d.Close()
		}
		return nil, err
	}
	return backendtest.WrapDraft(d, p, s.around...), nil
}

func (s *store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (img dr.Image, err error) {
	err = through(ctx, s.around, backendtest.Call{Op: opOpen, Machine: m, Point: id}, func() error {
		img, err = s.Store.Open(ctx, m, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return backendtest.WrapImage(img, s.around...), nil
}

func (s *store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	return through(ctx, s.around, backendtest.Call{Op: opDelete, Machine: m, Point: id}, func() error { return s.Store.Delete(ctx, m, id) })
}

func (s *store) Process(ctx context.Context, m dr.MachineID) error {
	return through(ctx, s.around, backendtest.Call{Op: opProcess, Machine: m}, func() error { return s.Store.Process(ctx, m) })
}

func (s *store) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.list(ctx, opList, m, s.Store.List(ctx, m))
}

func (s *store) Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.list(ctx, opPending, m, s.Store.Pending(ctx, m))
}

func (s *store) list(ctx context.Context, op backendtest.Op, m dr.MachineID, seq iter.Seq2[dr.Point, error]) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		if err := through(ctx, s.around, backendtest.Call{Op: op, Machine: m}, func() error { return nil }); err != nil {
			yield(dr.Point{}, err)
			return
		}
		seq(yield)
	}
}

// records are the engine's, intercepted.
type records struct {
	*embedded.Engine
	around []backendtest.Interceptor
}

func (r *records) Load(ctx context.Context, id dr.ProtectionID) (p dr.Protection, err error) {
	err = through(ctx, r.around, backendtest.Call{Op: opLoad}, func() error {
		p, err = r.Engine.Load(ctx, id)
		return err
	})
	return p, err
}

func (r *records) Save(ctx context.Context, p dr.Protection) (saved dr.Protection, err error) {
	err = through(ctx, r.around, backendtest.Call{Op: opSave}, func() error {
		saved, err = r.Engine.Save(ctx, p)
		return err
	})
	return saved, err
}
