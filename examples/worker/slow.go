package main

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// slow is a platform on which each change takes a while, as on real ones.
type slow struct {
	backend.Backend
	takes time.Duration
}

// Unwrap shows the platform's abilities to dr.As.
func (s *slow) Unwrap() any { return s.Backend }

func (s *slow) wait(ctx context.Context) error {
	t := time.NewTimer(s.takes)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slow) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := s.wait(ctx); err != nil {
		return backend.Replica{}, err
	}
	return s.Backend.Prepare(ctx, p)
}

func (s *slow) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Backend.Draft(ctx, id, p)
}

func (s *slow) Start(ctx context.Context, id dr.MachineID) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Backend.Start(ctx, id)
}
