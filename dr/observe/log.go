package observe

import (
	"context"
	"log/slog"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Log returns an observer that writes events to a log, at levels that say
// what they ask of a person: see [Event.Level]. Nil is silent.
func Log(log *slog.Logger) Observer {
	if log == nil {
		return func(context.Context, Event) {}
	}
	return func(ctx context.Context, e Event) {
		level := e.Level()
		if !log.Enabled(ctx, level) {
			return
		}
		r := slog.NewRecord(e.At, level, string(e.Kind), 0)
		r.AddAttrs(e.attrs()...)
		_ = log.Handler().Handle(ctx, r) // as a Logger does
	}
}

// Level says what an event asks of a person at three in the morning.
//
//   - Error: get up. A run is stuck past its point of no return, or has failed;
//     cycles fail for a reason that repeating them won't cure.
//   - Warn: in the morning, unless it goes on. An attempt or a cycle failed and
//     is tried again; the objective is missed; a run waits for an answer; what
//     somebody asked for was refused.
//   - Info: who asked for what, and how it ended.
//   - Debug: each attempt and each cycle.
func (e Event) Level() slog.Level {
	switch e.Kind {
	case RunStuck, RunFailed:
		return slog.LevelError
	case CycleFailed:
		if dr.IsPermanent(e.Err) {
			return slog.LevelError
		}
		return slog.LevelWarn
	case AttemptFailed, RPOExceeded, RunWaiting, RunUndoing, RunRefused:
		return slog.LevelWarn
	case RunStarted, RunDone, RunCancelled, RPORecovered:
		return slog.LevelInfo
	case Decided, CancelAsked:
		if e.Err != nil {
			return slog.LevelWarn
		}
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// attrs are the fields that apply.
func (e Event) attrs() []slog.Attr {
	all := make([]slog.Attr, 0, 8)
	text := func(key, value string) {
		if value != "" {
			all = append(all, slog.String(key, value))
		}
	}
	text("run", string(e.Run))
	text("flow", e.Flow)
	text("protection", string(e.Protection))
	text("step", e.Step)
	text("action", e.Action)
	if e.Undo {
		all = append(all, slog.Bool("undo", true))
	}
	if e.Attempt > 0 {
		all = append(all, slog.Int("attempt", e.Attempt))
	}
	text("verdict", string(e.Verdict))
	text("by", e.By)
	text("why", e.Text)
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"took", e.Took}, {"rpo", e.RPO}} {
		if d.d > 0 {
			all = append(all, slog.Duration(d.key, d.d))
		}
	}
	if e.Err != nil {
		all = append(all, slog.String("error", e.Err.Error()))
	}
	return all
}
