package recoverypoint

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Option is a way to say which recovery point is wanted, in the words of
// Azure Site Recovery's article on failover and failback. The zero value is
// [Latest].
type Option string

// Options.
const (
	// Latest has the lowest RPO: the store first makes points of all that it
	// has received ([Processor]), then the newest is taken.
	Latest Option = "latest"
	// LatestProcessed has the lowest RTO: the newest point that is ready.
	LatestProcessed Option = "latest-processed"
	// LatestApplicationConsistent is the newest application-consistent point.
	// It can be behind in time.
	LatestApplicationConsistent Option = "latest-application-consistent"
	// LatestMultiVMProcessed is for plans: machines of a replication group
	// take the group's latest common point, others the latest processed.
	LatestMultiVMProcessed Option = "latest-multi-vm-processed"
	// LatestMultiVMApplicationConsistent is for plans: machines of a
	// replication group take the group's latest common
	// application-consistent point, others their latest
	// application-consistent one.
	LatestMultiVMApplicationConsistent Option = "latest-multi-vm-application-consistent"
	// LatestBeforeSuspicion is the newest point from before the machine's
	// points began to look like mass encryption (package suspicion); the
	// latest processed if none does. In plans machines of a replication group
	// take the group's latest common point that is so for all of them.
	LatestBeforeSuspicion Option = "latest-before-suspicion"
	// Custom is one particular point of one machine; never of a plan.
	Custom Option = "custom"
)

// Options lists all options, as a menu shows them.
func Options() []Option {
	return []Option{Latest, LatestProcessed, LatestApplicationConsistent,
		LatestMultiVMProcessed, LatestMultiVMApplicationConsistent, LatestBeforeSuspicion, Custom}
}

func (o Option) multiVM() bool {
	return o == LatestMultiVMProcessed || o == LatestMultiVMApplicationConsistent
}

// Choice is what somebody asked for, before it is known what there is. It is
// plain data for plans and records. The zero value is the latest point.
type Choice struct {
	Option Option     `json:"option,omitempty"`
	Point  dr.PointID `json:"point,omitempty"` // with Custom, and only then
}

// String returns the option, with the point if it is a custom one.
func (c Choice) String() string {
	switch c.Option {
	case "":
		return string(Latest)
	case Custom:
		return string(Custom) + " " + string(c.Point)
	}
	return string(c.Option)
}

// Validate returns an ErrInvalid for options that don't exist, for Custom
// without a point and for a point without Custom.
func (c Choice) Validate() error {
	if c.Option != "" && !slices.Contains(Options(), c.Option) {
		return fmt.Errorf("%w: recovery point option %q; there are %q", dr.ErrInvalid, c.Option, Options())
	}
	if c.Option == Custom {
		return c.Point.Validate()
	}
	if c.Point != "" {
		return fmt.Errorf("%w: recovery point option %s takes no point, and %s is given: use option %q", dr.ErrInvalid, c, c.Point, Custom)
	}
	return nil
}

// NeedsProcessing reports whether the store must make points of all that it
// has received before the choice is made.
func (c Choice) NeedsProcessing() bool { return c.Option == Latest || c.Option == "" }

// Choose takes one machine's points, as a store's List yields them, and
// returns the one chosen. Bases are never offered. Points are newer the later
// they stand in the list, whatever the clocks said.
//
// An option for plans is ErrInvalid: use [ChooseAll]. If there is no such
// point the error wraps ErrNoPoint and says what there is instead.
//
// Nothing suspicious is taken for accepted: [Candidate.Choose] knows what was.
func Choose(points []dr.Point, c Choice) (dr.Point, error) {
	m := Candidate{Points: points}
	if len(points) > 0 {
		m.Machine = points[0].Machine.ID
	}
	return m.Choose(c)
}

// Choose is the function Choose for a machine of which more is known.
func (m Candidate) Choose(c Choice) (dr.Point, error) {
	if err := c.Validate(); err != nil {
		return dr.Point{}, err
	}
	if c.Option.multiVM() {
		return dr.Point{}, fmt.Errorf("%w: recovery point option %s is for recovery plans: use %s for a machine alone", dr.ErrInvalid, c, alone(c.Option))
	}
	return choose(m, c)
}

// choose is Choose for a valid choice that is not a multi-VM one.
func choose(m Candidate, c Choice) (dr.Point, error) {
	offered := m.Points
	if c.Option == LatestBeforeSuspicion {
		offered = BeforeSuspicion(m.Points, m.Accepted)
	}
	for _, p := range slices.Backward(offered) {
		if !p.Base && fits(p, c) {
			return p, nil
		}
	}
	return dr.Point{}, noPoint(m.Machine, m.Points, c)
}

// fits reports whether the newest such point is the one chosen.
func fits(p dr.Point, c Choice) bool {
	switch c.Option {
	case LatestApplicationConsistent:
		return p.Consistency == dr.ApplicationConsistent
	case Custom:
		return p.ID == c.Point
	}
	return true
}

// alone is what a machine outside every group takes under a plan's option.
func alone(o Option) Option {
	switch o {
	case LatestMultiVMProcessed:
		return LatestProcessed
	case LatestMultiVMApplicationConsistent:
		return LatestApplicationConsistent
	}
	return o
}

// Candidate is a machine of a plan, with what it could be recovered to.
type Candidate struct {
	Machine dr.MachineID
	Group   string     // its replication group; "" is none
	Points  []dr.Point // as List yields them
	// Accepted are points that a person has found harmless: the Accepted of
	// its dr.Protection.
	Accepted map[dr.PointID]string
}

// Selection is what was chosen for one machine: a point, or why there is none.
type Selection struct {
	Machine dr.MachineID
	Point   dr.Point
	Err     error
}

// ChooseAll chooses for the machines of a plan, each its own point, in the
// order given. A machine without a fitting point has an Err that wraps
// ErrNoPoint; the others are not held up by it. The second result is an
// ErrInvalid for what makes no sense for any machine: Custom, and multi-VM
// options for a plan without a replication group.
//
// A group's common point is one whose mark all machines of the group have
// that are in the plan, and so do all machines in the plan that the mark
// lists as members. If there is none, no machine of the group gets a point:
// taking different moments is what the option was to prevent.
func ChooseAll(machines []Candidate, c Choice) ([]Selection, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	grouped := slices.ContainsFunc(machines, func(m Candidate) bool { return m.Group != "" })
	switch {
	case c.Option == Custom:
		return nil, fmt.Errorf("%w: recovery point option %s is for one machine, not for recovery plans: use %s", dr.ErrInvalid, c, LatestProcessed)
	case c.Option.multiVM() && !grouped:
		return nil, fmt.Errorf("%w: recovery point option %s is for plans with a replication group, and no machine of this one is in any: use %s", dr.ErrInvalid, c, alone(c.Option))
	}
	plan := machines
	if c.Option == LatestBeforeSuspicion {
		plan = slices.Clone(machines)
		for i := range plan {
			if plan[i].Group != "" {
				plan[i].Points = BeforeSuspicion(plan[i].Points, plan[i].Accepted)
			}
		}
	}
	all := make([]Selection, len(machines))
	for i, m := range machines {
		all[i].Machine = m.Machine
		if c.Option == LatestBeforeSuspicion && m.Group != "" {
			all[i].Point, all[i].Err = common(plan, plan[i], c)
			if all[i].Err != nil {
				all[i].Err = noCommon(m, c)
			}
		} else if c.Option.multiVM() && m.Group != "" {
			all[i].Point, all[i].Err = common(machines, m, c)
		} else {
			all[i].Point, all[i].Err = choose(m, Choice{Option: alone(c.Option), Point: c.Point})
		}
	}
	return all, nil
}

// ChooseFailback is [ChooseAll] by the rules of failback: every machine needs
// at least one recovery point, or nothing is chosen (ErrNoPoint, for all that
// have none); and with [LatestApplicationConsistent] a replication group
// takes its common application-consistent point, as with
// [LatestMultiVMApplicationConsistent]. For one machine, not in a plan, Choose
// does.
func ChooseFailback(machines []Candidate, c Choice) ([]Selection, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	grouped := false
	var missing []error
	for _, m := range machines {
		grouped = grouped || m.Group != ""
		if !slices.ContainsFunc(m.Points, func(p dr.Point) bool { return !p.Base }) {
			missing = append(missing, noPoint(m.Machine, m.Points, Choice{Option: LatestProcessed}))
		}
	}
	if c.Option == LatestApplicationConsistent && grouped {
		c.Option = LatestMultiVMApplicationConsistent
	}
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	return ChooseAll(machines, c)
}

// common returns m's point of its group's latest common moment.
func common(machines []Candidate, m Candidate, c Choice) (dr.Point, error) {
	// All machines of a group must decide alike: they walk the marks of the
	// first of them, not each its own.
	first := machines[slices.IndexFunc(machines, func(o Candidate) bool { return o.Group == m.Group })]
	for _, p := range slices.Backward(first.Points) {
		if p.Base || p.Group.IsZero() || p.Group.Group != m.Group {
			continue
		}
		if whole(machines, p.Group, c) {
			own, _ := marked(m, p.Group)
			return own, nil
		}
	}
	return dr.Point{}, noCommon(m, c)
}

// whole reports whether every machine that should have the mark has it, on a
// point of the consistency that is asked for.
func whole(machines []Candidate, mark dr.GroupMark, c Choice) bool {
	for _, m := range machines {
		if m.Group != mark.Group && !slices.Contains(mark.Members, m.Machine) {
			continue
		}
		p, ok := marked(m, mark)
		if !ok || !fits(p, Choice{Option: alone(c.Option)}) {
			return false
		}
	}
	return true
}

// marked returns the machine's point of the mark.
func marked(m Candidate, mark dr.GroupMark) (dr.Point, bool) {
	for _, p := range slices.Backward(m.Points) {
		if !p.Base && p.Group.Group == mark.Group && p.Group.ID == mark.ID {
			return p, true
		}
	}
	return dr.Point{}, false
}

func noPoint(m dr.MachineID, points []dr.Point, c Choice) error {
	e := &dr.Error{Op: "choose " + c.String(), Side: dr.StoreSide, Machine: m}
	newest, n := summary(points)
	switch {
	case n > 0 && c.Option == LatestBeforeSuspicion:
		e.Err = fmt.Errorf("%w: %s, and all are suspicious or can't be told from those that are", dr.ErrNoPoint, newest)
		e.Remedy = "scan the oldest point in a clean room; look for older points in another store"
	case n == 0 && len(points) > 0:
		e.Err = fmt.Errorf("%w: there is only a base, from which no machine is recovered", dr.ErrNoPoint)
		e.Remedy = "wait for the first replication cycle to end"
	case n == 0:
		e.Err = fmt.Errorf("%w: there is none at all", dr.ErrNoPoint)
		e.Remedy = "wait for the first replication cycle to end, or check that the store is the right one"
	case c.Option == Custom:
		e.Err = fmt.Errorf("%w: %s", dr.ErrNoPoint, newest)
		e.Remedy = "it may have expired: list the points and choose another"
	default:
		e.Err = fmt.Errorf("%w: %s, and none is application-consistent", dr.ErrNoPoint, newest)
		e.Remedy = fmt.Sprintf("choose %s, or see why the guest can't be quiesced", LatestProcessed)
	}
	return e
}

func noCommon(m Candidate, c Choice) error {
	newest, n := summary(m.Points)
	if n == 0 {
		return noPoint(m.Machine, m.Points, c)
	}
	kind := "moment"
	if c.Option == LatestMultiVMApplicationConsistent {
		kind = "application-consistent moment"
	}
	remedy := fmt.Sprintf("choose %s, which takes each machine at a moment of its own", alone(c.Option))
	if c.Option == LatestBeforeSuspicion {
		kind = "moment before suspicion of any of them"
		remedy = fmt.Sprintf("choose %s for each machine alone, after a scan in a clean room", Custom)
	}
	return &dr.Error{
		Op: "choose " + c.String(), Side: dr.StoreSide, Machine: m.Machine,
		Err:    fmt.Errorf("%w: the machines of group %s have no common %s; of this machine %s", dr.ErrNoPoint, m.Group, kind, newest),
		Remedy: remedy,
	}
}

// summary tells what recovery points there are.
func summary(points []dr.Point) (string, int) {
	var newest dr.Point
	n := 0
	for _, p := range points {
		if !p.Base {
			newest = p
			n++
		}
	}
	return fmt.Sprintf("the newest of %d is %s of %s, %s-consistent", n, newest.ID, newest.Time.UTC().Format(time.RFC3339), newest.Consistency), n
}
