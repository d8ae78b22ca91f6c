package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

const serviceName = "LifeboatAgent"

const serviceUsage = `  agent install   what would follow "agent serve": makes and starts the service
  agent uninstall stops and removes it
`

// asService runs under the service manager, if that started this process.
func asService() bool {
	is, err := svc.IsWindowsService()
	if err != nil || !is {
		return false
	}
	_ = svc.Run(serviceName, service{})
	return true
}

// service is the agent as the service manager sees it. Its options are in the
// service's command line.
type service struct{}

// Execute serves until it is told to stop. The manager is told that stopping goes
// on for as long as it does.
func (service) Execute(_ []string, asked <-chan svc.ChangeRequest, tell chan<- svc.Status) (bool, uint32) {
	log := eventWriter{}
	if l, err := eventlog.Open(serviceName); err == nil {
		log.l = l
		defer l.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan int, 1)
	go func() { done <- run(ctx, os.Args[1:], io.Discard, log) }()
	const takes = svc.AcceptStop | svc.AcceptShutdown
	tell <- svc.Status{State: svc.Running, Accepts: takes}
	point := uint32(0)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	stopping := false
	for {
		select {
		case code := <-done:
			return code != 0, uint32(code)
		case r := <-asked:
			switch r.Cmd {
			case svc.Interrogate:
				tell <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				stopping = true
				cancel()
			}
		case <-tick.C:
			if stopping {
				point++
				tell <- svc.Status{State: svc.StopPending, CheckPoint: point, WaitHint: 5000}
			}
		}
	}
}

// eventWriter writes lines to the event log.
type eventWriter struct{ l *eventlog.Log }

func (w eventWriter) Write(p []byte) (int, error) {
	if w.l == nil {
		return len(p), nil
	}
	return len(p), w.l.Info(1, string(p))
}

func serviceCommand(name string, args []string, out io.Writer) error {
	switch name {
	case "install":
		return install(args, out)
	case "uninstall":
		return uninstall(out)
	}
	return wrongUsage("%q is no command", name)
}

func install(args []string, out io.Writer) error {
	o, err := parseServe(args) // before there is a service that can't start
	if err != nil {
		return err
	}
	for _, p := range []string{o.cert, o.key, o.clients, o.identity} {
		if p != "" && !filepath.IsAbs(p) {
			return wrongUsage("%s: a service has no folder of its own: want absolute paths", p)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer m.Disconnect()
	s, err := m.CreateService(serviceName, exe, mgr.Config{
		DisplayName: "Lifeboat agent",
		Description: "Serves this host's disks to a replicator elsewhere.",
		StartType:   mgr.StartAutomatic,
	}, append([]string{"serve"}, args...)...)
	if err != nil {
		return fmt.Errorf("create the service: %w", err)
	}
	defer s.Close()
	if err := s.SetRecoveryActions([]mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: 10 * time.Second}}, 86400); err != nil {
		return fmt.Errorf("restart after a crash: %w", err)
	}
	if err := eventlog.InstallAsEventCreate(serviceName, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil {
		fmt.Fprintln(out, "no event log:", err)
	}
	if err := s.Start(); err != nil {
		return fmt.Errorf("start the service: %w", err)
	}
	fmt.Fprintln(out, "service", serviceName, "runs")
	return nil
}

func uninstall(out io.Writer) error {
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer m.Disconnect()
	s, err := m.OpenService(serviceName)
	if err != nil {
		return fmt.Errorf("open the service: %w", err)
	}
	defer s.Close()
	if st, err := s.Query(); err == nil && st.State != svc.Stopped {
		if _, err := s.Control(svc.Stop); err != nil {
			return fmt.Errorf("stop the service: %w", err)
		}
	}
	err = s.Delete()
	_ = eventlog.Remove(serviceName)
	if err != nil {
		return errors.Join(errors.New("the service was stopped"), err)
	}
	fmt.Fprintln(out, "service", serviceName, "is gone")
	return nil
}
