package hyperv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/color"
	"image/png"
	"strings"

	picture "image"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Start implements backend.Target. What the disks hold is forgotten first.
func (v *HyperV) Start(ctx context.Context, id dr.MachineID) error {
	return fail("start", id, "", -1, v.heeding(ctx, id, func(m *machine) error {
		if m.torn() {
			return &explained{dr.ErrTorn, "fill its disks from a recovery point first"}
		}
		if m.power() == dr.On {
			return nil
		}
		r := m.record
		r.Holds, r.New, r.Stamp = "", false, ""
		if err := v.save(ctx, m, r); err != nil {
			return err
		}
		return m.change(ctx, stateOn)
	}))
}

// change asks for another state and waits for it.
func (m *machine) change(ctx context.Context, state uint16) error {
	_, err := m.node.call(ctx, m.system.Path, "RequestStateChange", host.Props{"RequestedState": state}, output{})
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The answer may have been lost, or somebody was faster.
	if next, again := m.node.look(ctx, m.id); again == nil && next.state() == int64(state) {
		return nil
	}
	return err
}

// Stop implements backend.Target.
func (v *HyperV) Stop(ctx context.Context, id dr.MachineID) error {
	return fail("stop", id, "", -1, v.changingAny(ctx, id, func(m *machine) error {
		if err := v.admit(ctx, m); err != nil {
			return err
		}
		if err := v.remember(ctx, m); err != nil {
			return err
		}
		return m.powerOff(ctx)
	}))
}

func (m *machine) powerOff(ctx context.Context) error {
	if m.off() {
		return nil
	}
	return m.change(ctx, stateOff)
}

// Shutdown implements backend.Shutdowner, by the guest's shutdown service. It
// never forces: a guest that is locked, or in which somebody is logged in with
// work that isn't saved, says no.
func (v *HyperV) Shutdown(ctx context.Context, id dr.MachineID) error {
	asked := false
	for wait := v.pace(); ; wait.sleep(ctx) {
		m, err := v.findAny(ctx, id)
		if err == nil {
			err = v.admit(ctx, m)
		}
		if err == nil && m.guard.raising() {
			if err = v.rememberLocked(ctx, m); errors.Is(err, dr.ErrConflict) && ctx.Err() == nil {
				continue // somebody in this process was faster
			}
		}
		switch {
		case err == nil && m.off():
			return nil
		case ctx.Err() != nil && asked: // perhaps amid the look
			return fail("shut down", id, "", -1, fmt.Errorf("the guest was asked and is not off: %w", ctx.Err()))
		case err != nil:
			return fail("shut down", id, "", -1, err)
		case ctx.Err() != nil:
			return fail("shut down", id, "", -1, ctx.Err())
		case m.power() == "" && !asked:
			return fail("shut down", id, "", -1, &explained{fmt.Errorf("%w: the machine is saved, paused, or on its way to another state (%d), and its guest can't be asked", dr.ErrConflict, m.state()),
				"resume it, or fail over without shutting down: what is in its memory is lost then"})
		}
		if asked {
			continue
		}
		if asked, err = m.askDown(ctx); err != nil {
			return fail("shut down", id, "", -1, err)
		}
	}
}

// locked is InitiateShutdown's answer of a guest that won't.
const locked = 32781

// askDown asks the guest to shut down. A missing service is not "already off".
func (m *machine) askDown(ctx context.Context) (asked bool, err error) {
	all, err := m.node.conn.Query(ctx, "SELECT * FROM Msvm_ShutdownComponent WHERE SystemName='"+strings.ToUpper(string(m.id))+"'")
	if err != nil {
		return false, err
	}
	if len(all) == 0 {
		return false, &explained{fmt.Errorf("%w: the guest has no shutdown service", dr.ErrUnsupported), "enable the integration service Guest shutdown, and see that it runs in the guest; or shut it down from inside, or fail over without shutting down"}
	}
	r, err := m.node.conn.Invoke(ctx, all[0].Path, "InitiateShutdown", host.Props{"Force": false, "Reason": "failover"})
	switch {
	case err != nil:
		return false, err
	case r.Return == done, r.Return == jobStarted:
		return true, nil
	case r.Return == locked:
		return false, &explained{&host.Error{Op: "InitiateShutdown", Kind: host.Method, Code: r.Return, Detail: "the guest is locked, or somebody is at work in it"}, "unlock it or log out, shut it down from inside, or fail over without shutting down"}
	case r.Return == 32775: // it went off, or on, meanwhile: look again
		return false, nil
	}
	return false, &host.Error{Op: "InitiateShutdown", Kind: host.Method, Code: r.Return}
}

// Size of a screenshot, in pixels.
const screenWidth, screenHeight = 640, 480

// Probe implements backend.Prober: it waits for the guest's heartbeat; of a
// guest that has none, or doesn't answer in time, the screen is the evidence that
// a person can judge.
func (v *HyperV) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	for wait := v.pace(); ; wait.sleep(ctx) {
		m, err := v.findAny(ctx, id)
		if err != nil {
			return backend.Evidence{}, fail("probe", id, "", -1, err)
		}
		beats, known, err := m.heartbeat(ctx)
		if err != nil && ctx.Err() == nil {
			return backend.Evidence{}, fail("probe", id, "", -1, err)
		}
		if m.power() == dr.On && beats {
			what := "the guest's heartbeat is well"
			if g, err := m.guest(ctx); err == nil && g["FullyQualifiedDomainName"] != "" {
				what += ": " + oneLine(g["FullyQualifiedDomainName"])
				if a := g["NetworkAddressIPv4"]; a != "" {
					what += " at " + oneLine(a)
				}
			}
			return backend.Evidence{Kind: "heartbeat", What: what}, nil
		}
		if m.power() == dr.On && !known {
			shot, err := m.screen(ctx)
			if err == nil {
				return backend.Evidence{Kind: "screenshot", What: "the machine runs; its guest has no heartbeat service", Data: shot}, nil
			}
		}
		if ctx.Err() != nil {
			state := "is off"
			if m.power() == dr.On {
				state = "runs, and the guest has no heartbeat"
			}
			return backend.Evidence{}, fail("probe", id, "", -1, fmt.Errorf("the machine %s: %w", state, ctx.Err()))
		}
	}
}

// heartbeat tells whether the guest is well, and whether it can tell at all.
func (m *machine) heartbeat(ctx context.Context) (beats, known bool, err error) {
	all, err := m.node.conn.Query(ctx, "SELECT * FROM Msvm_HeartbeatComponent WHERE SystemName='"+strings.ToUpper(string(m.id))+"'")
	if err != nil || len(all) == 0 {
		return false, false, err
	}
	status := all[0].Props.Ints("OperationalStatus")
	return len(status) > 0 && status[0] == 2, true, nil // 2: OK
}

// screen takes a picture of the machine's screen, as a PNG. Hyper-V gives two
// bytes a pixel, RGB565.
func (m *machine) screen(ctx context.Context) ([]byte, error) {
	r, err := m.node.conn.Invoke(ctx, m.node.management, "GetVirtualSystemThumbnailImage", host.Props{
		"TargetSystem": m.settings.Path, "WidthPixels": uint16(screenWidth), "HeightPixels": uint16(screenHeight)})
	if err != nil {
		return nil, err
	}
	if r.Return != done {
		return nil, &host.Error{Op: "GetVirtualSystemThumbnailImage", Kind: host.Method, Code: r.Return}
	}
	return pngOf(r.Out.Ints("ImageData"), screenWidth, screenHeight)
}

func pngOf(data []int64, width, height int) ([]byte, error) {
	if len(data) != 2*width*height {
		return nil, errors.New("the host's picture has another size than was asked for")
	}
	img := picture.NewRGBA(picture.Rect(0, 0, width, height))
	for i := range width * height {
		p := uint16(data[2*i]&0xff) | uint16(data[2*i+1]&0xff)<<8
		img.SetRGBA(i%width, i/width, color.RGBA{uint8(p >> 11 << 3), uint8(p >> 5 & 0x3f << 2), uint8(p & 0x1f << 3), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
