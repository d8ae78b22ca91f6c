// Package transfer moves protections from one place to another, with the epochs
// of their claims, while they are replicated: from the embedded engine's file
// to a database that many workers share, and back.
//
// # From the embedded engine to Temporal, step by step
//
//  1. Choose where claims are from now on: dr/claims beside the recovery site,
//     or dr/postgres. Let all runs end, close the engine, and open it again
//     with Options.Claims set to that place. Before it is served, raise the
//     epochs there: transfer.Epochs(ctx, engine, claims). Replication stands
//     still for as long as the process takes to start again; what was being
//     copied goes on where it was. An engine with open runs refuses other
//     claims (dr.ErrNotAllowed), and so does Epochs epochs that would rise
//     under a holder (dr.ErrBusy).
//  2. Have the process use records := transfer.Leaving(engine) in place of the
//     engine as its dr.Records: for the replication environment, the scheduler,
//     and the actions.
//  3. Start the new workers, with the new place's records and the same claims.
//     Nothing is there yet, so they do nothing.
//  4. transfer.Move(ctx, records, store, transfer.Options{To: "postgres", Hold:
//     env.Hold}). It moves one record after another; as soon as one has moved
//     the new workers replicate it. Records that a run holds are waited for,
//     or left and named: Move can be called again, at any time, also after a
//     crash, until it reports that nothing is left.
//  5. From then on start runs, and protect machines, in the new engine. Runs
//     that the old one still has end there; then stop it. Keep its file: it
//     holds the history of its runs.
//
// To go back, exchange the two: the old place takes the records over with
// higher versions than it had.
//
// # What is promised
//
//   - At any moment a record can be saved in one place only. It is marked in the
//     old place before it is written in the new one, both by compare-and-swap,
//     and the mark stays. Whoever still looks there finds the protection held
//     by a run called "moved:postgres": no flow and no cycle begins on it.
//   - A protection stands still from the mark to the import: two saves and one
//     import, and until the cycle of it that is under way here has stopped,
//     which is resumed by the new workers from what is already copied. All
//     others go on. Cycles that other processes run over the old place are not
//     stopped; stop those processes before, or have them use Leaving and let
//     their Hold be called.
//   - Nothing that was saved is lost: what a cycle saves until it has stopped is
//     moved with the record; from the second mark on such saves are refused.
//   - Versions and epochs never fall: a record arrives with a higher version
//     than any that the old place gave, so that names made of versions are not
//     made twice.
//   - A crash at any point leaves a record in the old place, or marked there and
//     moved by the next Move. Each record is read back and compared.
//
// What may not live here: the places themselves, and what a record means.
package transfer
