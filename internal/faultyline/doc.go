// Package faultyline is a bad network line for tests: a proxy for TCP that is
// slow, far, lossy, cut or silent on request, and that counts what passes.
//
//	line, err := faultyline.New(agent.Addr, seed)
//	line.Set(faultyline.Weather{Delay: 100 * time.Millisecond, Rate: 128 << 10})
//	line.CutAfter(faultyline.Up, 1<<20) // in the middle of something
//	line.Stall()                        // a partition: nobody is told
//	line.Resume()
//
// All connections share one line: its rate is that of all together, and what
// happens to it happens to all of them.
//
// # What it can't do
//
// It ends TCP on both sides and passes on bytes. So packets aren't lost, only
// late: a loss is as long a silence as a retransmission takes. During a stall
// connections are still accepted, and bytes are acknowledged until buffers are
// full. What the kernel does about lost packets and dead links has to be seen
// on a real one: tests do that with network namespaces.
//
// # Determinism
//
// The same seed draws the same faults in the same order, but which bytes they
// meet depends on the scheduler and on how the kernel cuts the stream. Print the
// seed all the same.
//
// Here lives the line and nothing that knows what travels over it.
package faultyline
