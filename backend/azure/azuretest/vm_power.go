package azuretest

import "net/http"

// hangs is how many times the usual polls a stop takes while the guest hangs:
// Azure waits for its shutdown, then switches it off.
const hangs = 10

// startHooks and stopHooks call what OnStart and OnStop added, without the lock.
func (c *Cloud) startHooks(v *vm) func() { return func() { c.hooks(&c.onStart, v.id) } }

func (c *Cloud) stopHooks(v *vm) func() { return func() { c.hooks(&c.onStop, v.id) } }

func (c *Cloud) hooks(list *[]func(string), id string) {
	c.mu.Lock()
	hooks := append([]func(string){}, *list...)
	c.mu.Unlock()
	for _, f := range hooks {
		f(id)
	}
}

// turn accepts a change of power. What it was before is restored if it fails.
func (c *Cloud) turn(q *request, v *vm, during, then string) *operation {
	was := v.power
	op := c.accept(q, "Updating", v.entries()...)
	if op.code == "" {
		v.power = during
	}
	op.end = func() {
		v.failed, v.power = "", then
		c.setGuest(v, then == running)
	}
	op.failed = func() { v.failed, v.power = op.code, was }
	return op
}

func accepted(op *operation) (reply, error) {
	return reply{status: http.StatusAccepted, op: op}, nil
}

func (c *Cloud) startVM(q *request) (reply, error) {
	v, err := c.machine(q)
	if err != nil {
		return reply{}, err
	}
	if err := c.throttle(v.id); err != nil {
		return reply{}, err
	}
	if v.power == running {
		return accepted(c.turn(q, v, running, running))
	}
	if err := c.mayStart(v); err != nil {
		return reply{}, err
	}
	op := c.turn(q, v, starting, running)
	op.after = []func(){c.startHooks(v)}
	return accepted(op)
}

// mayStart refuses where there is no room, or a disk is being read.
func (c *Cloud) mayStart(v *vm) error {
	if !v.allocated() {
		if err := v.size.available(v.zones, v.location); err != nil {
			return err
		}
		if err := c.quota(v.size, false); err != nil {
			return err
		}
	}
	for _, d := range v.disks() {
		if d.shared(c) != nil {
			return notAllowed("VM %s can't start: disk %s has an active shared access signature.", v.name, d.name)
		}
	}
	return nil
}

func (c *Cloud) powerOffVM(q *request) (reply, error) {
	return c.halt(q, stopping, stopped, alike(q.query.Get("skipShutdown"), "true"))
}

func (c *Cloud) deallocateVM(q *request) (reply, error) {
	return c.halt(q, deallocating, deallocated, false)
}

func (c *Cloud) halt(q *request, during, then string, hard bool) (reply, error) {
	v, err := c.machine(q)
	if err != nil {
		return reply{}, err
	}
	if err := c.throttle(v.id); err != nil {
		return reply{}, err
	}
	if !v.allocated() || v.power == then { // it is so already
		return accepted(c.turn(q, v, v.power, v.power))
	}
	op := c.turn(q, v, during, then)
	if v.guest {
		op.before = c.stopHooks(v)
		if v.hung && !hard {
			op.left *= hangs
		}
	}
	return accepted(op)
}

func (c *Cloud) restartVM(q *request) (reply, error) {
	v, err := c.machine(q)
	if err != nil {
		return reply{}, err
	}
	if err := c.throttle(v.id); err != nil {
		return reply{}, err
	}
	if v.power != running {
		return reply{}, notAllowed("Cannot restart VM %s: it is %s.", v.name, v.power)
	}
	op := c.turn(q, v, running, running)
	op.before = func() {
		c.stopHooks(v)()
		c.mu.Lock()
		c.setGuest(v, false)
		c.mu.Unlock()
	}
	op.after = []func(){c.startHooks(v)}
	return accepted(op)
}
