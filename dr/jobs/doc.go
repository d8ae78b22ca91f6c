// Package jobs shows runs the way that consoles do: as jobs with a state, a
// tree of tasks, times, progress and errors, that can be filtered, exported,
// cancelled, resumed and restarted.
//
// A [Job] is a view, never a record: [Of] makes it of a run's status by pure
// tables, [Load] and [List] ask an orchestrator for what they need. A step that
// drives other runs, as those of a recovery plan do, has their jobs below it,
// if [Options.Children] can name them. Nothing is kept here, so there is
// nothing that could disagree with the journal.
//
// The states are those of Azure Site Recovery's jobs. [Cancel] cancels the run;
// [Resume] answers the gate or stuck step that it waits for; [Restart] runs the
// flow once more, newly planned, under an ID of its own. [WriteJSON] and
// [WriteCSV] export as they go: memory doesn't grow with the number of jobs.
//
// What may not live here: what a flow does, and what a finding means (package
// health).
package jobs
