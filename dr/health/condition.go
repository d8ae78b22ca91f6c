package health

// Codes of a protection's conditions.
const (
	CodeRPOExceeded          = "rpo-exceeded"
	CodeReplicationFailing   = "replication-failing"
	CodePausedLong           = "replication-paused-long"
	CodeResyncRequired       = "resync-required"
	CodeApplicationLate      = "application-points-late"
	CodeClockSkew            = "clock-skew"
	CodeDrillNotCleanedUp    = "drill-not-cleaned-up"
	CodeDrillCleanUpFailed   = "drill-clean-up-failed"
	CodeNeverDrilled         = "never-drilled"
	CodeDrillOverdue         = "drill-overdue"
	CodeFailoverNotCommitted = "failover-not-committed"
	CodeNotProtected         = "not-protected"
	CodePinned               = "pinned-beyond-retention"
	CodeSuspicious           = "mass-encryption-suspected"
)

var conditions = []Meaning{
	{CodeRPOExceeded, Condition, Warning, Replication,
		"The newest recovery point is older than the objective", nil,
		"See what keeps replication cycles from ending, and whether the link carries what the machine writes."},
	{CodeReplicationFailing, Condition, Warning, Replication,
		"Replication cycles fail", nil,
		"See the inner error. Replication goes on by itself once its cause is gone."},
	{CodePausedLong, Condition, Warning, Replication,
		"Replication has been paused for long",
		[]string{"a person paused it and has not resumed it"},
		"Resume replication."},
	{CodeResyncRequired, Condition, Warning, Replication,
		"Both sides have to be compared whole",
		[]string{"change tracking was lost"},
		"Let the next cycle run to its end; it takes longer."},
	{CodeApplicationLate, Condition, Warning, Replication,
		"Application-consistent points are missing",
		[]string{"the guest's agent or writers don't answer", "the platform can't quiesce this guest"},
		"See the guest's own log for the writer that failed; crash-consistent points go on."},
	{CodeClockSkew, Condition, Warning, Configuration,
		"The newest recovery point is of the future",
		[]string{"the clock of the source or of this process is wrong"},
		"Set the clocks right: until then nobody can say how old the point is."},
	{CodeDrillNotCleanedUp, Condition, Warning, Drill,
		"A test failover has not been cleaned up",
		[]string{"the drill was forgotten", "its clean-up waits or hangs"},
		"Clean the test failover up: until then no other drill, planned failover or failback can begin."},
	{CodeDrillCleanUpFailed, Condition, Critical, Drill,
		"Something of a test failover is left and could not be removed",
		[]string{"the platform refused to remove it", "somebody uses the drill's machine"},
		"Run the clean-up again; its error names what is left."},
	{CodeNeverDrilled, Condition, Warning, Drill,
		"Recovery has never been tested",
		[]string{"no test failover has been run since the machine was protected"},
		"Run a test failover: a recovery that was never tried is a hope."},
	{CodeDrillOverdue, Condition, Warning, Drill,
		"The last test failover is too long ago", nil,
		"Run a test failover."},
	{CodeFailoverNotCommitted, Condition, Warning, Failover,
		"A failover has been neither committed nor cancelled",
		[]string{"the commit was forgotten", "it is not decided yet whether the point is the right one"},
		"Commit the failover, change its point, or cancel it: the machine is unprotected until it is committed and reprotected."},
	{CodeNotProtected, Condition, Warning, Failover,
		"The machine runs without protection",
		[]string{"it was failed over and committed, and not reprotected"},
		"Reprotect the machine, or fail it back."},
	{CodePinned, Condition, Warning, Retention,
		"Pins keep recovery points beyond retention",
		[]string{"a flow that needs the point has not ended", "a flow ended without letting go of it"},
		"End the flow that is named as the holder, then let retention run."},
	{CodeSuspicious, Condition, Critical, DataIntegrity,
		"Recovery points look like mass encryption",
		[]string{"ransomware", "disk encryption that was switched on", "much text that was packed in its place"},
		"Look at the machine at once. If it was attacked cut it off, find the newest clean point by a scan, and fail over to that; if not, accept the newest point. Until then retention holds the points from before."},
}

// condition looks a row up by its code.
func condition(code string) Meaning {
	for _, m := range conditions {
		if m.Code == code {
			return m
		}
	}
	panic("health: no condition " + code)
}
