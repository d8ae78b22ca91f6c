// Package failover brings machines up at the other site: it plans the flows
// and holds the actions of their steps.
//
// Planning is pure: [Planned], [Unplanned], [Test] and the others look only at
// the protection's record and the options, refuse what the record's state
// does not allow, and return a dr.Plan. What a plan does is in [Actions],
// which the process that serves an orchestrator registers. A caller puts own
// steps into a plan by name, with dr.Plan.InsertAfter and InsertBefore.
//
// A flow knows two places: From, where the machine runs before it, and To,
// where it runs after it. Which of them is home plays no part; package
// failback uses these same steps with the sites exchanged.
//
// Every action looks for what it did before it does it, and every change of
// the record is applied once, so that each step may be cut off anywhere and
// repeated. A flow that fails or is cancelled before its point of no return
// ends in the state that it began in: the machine runs where it ran.
package failover
