package temporal

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// What is written into Temporal's histories. The JSON forms are stable: runs
// that were started by one version of this package are continued by the next.

// Names by which workflow, activities, signals, updates and queries are known.
const (
	claimName    = "lifeboat.claim@1"
	releaseName  = "lifeboat.release@1"
	stepName     = "lifeboat.step@1"
	askName      = "lifeboat.ask@1"
	presentName  = "lifeboat.present@1"
	underwayName = "lifeboat.underway@1"

	begunSignal = "begun"

	claimedUpdate = "claimed"
	decideUpdate  = "decide"
	cancelUpdate  = "cancel"

	statusQuery = "status"
	needsQuery  = "needs"
	resultQuery = "result"
	decideQuery = "decide"

	planMemo  = "lifeboatPlan"
	stateMemo = "lifeboatState"
)

// workflowName is the type of the workflow that interprets plans with the fold
// of a revision. A program registers those of all revisions that it knows.
func workflowName(rev int) string { return fmt.Sprintf("lifeboat.run@%d", rev) }

// runInput is what a run's workflow is started with, and continued as new with.
type runInput struct {
	Run      dr.RunID `json:"run"`
	Plan     packed   `json:"plan"`
	Settings settings `json:"settings"`
	// Start tells this start of the run apart from others of its ID: the locks
	// of one may be refused, and the ID started again.
	Start string `json:"start,omitempty"`
	// Events are those of the workflow runs before this one, Offers how many
	// attempts these offered, and First when the first of them began.
	Events packed    `json:"events,omitzero"`
	Offers int       `json:"offers,omitempty"`
	First  time.Time `json:"first,omitzero"`
}

// settings are the options that the workflow's decisions depend on: those of
// the engine that started the run, for as long as the run goes on.
type settings struct {
	Queue        string        `json:"queue"`
	Heartbeat    time.Duration `json:"heartbeat"`
	BackoffFirst time.Duration `json:"backoffFirst"`
	BackoffMost  time.Duration `json:"backoffMost"`
	Attributes   bool          `json:"attributes,omitempty"`
	// Quiet has steps that run alone begin without a signal (see alone).
	Quiet bool `json:"quiet,omitempty"`
	// Unable has steps fail that all workers of a site decline (see unable).
	Unable bool `json:"unable,omitempty"`
	// Long is at how many events of history a run is continued as new.
	Long int `json:"long,omitempty"`
}

// offer is the input of a step's activity: an attempt that a worker may begin.
type offer struct {
	Seq     int         `json:"seq"` // names the offer within its run
	Kind    dr.TaskKind `json:"kind"`
	Step    dr.Step     `json:"step"` // of it, what a call needs
	Call    call        `json:"call"`
	Suspect bool        `json:"suspect,omitempty"`
	// Quiet lets its beginning be told by a heartbeat, without a signal.
	Quiet bool `json:"quiet,omitempty"`
	// Every is how often its worker shall tell of progress, if less often than
	// usual, and beat if that is less often still.
	Every time.Duration `json:"every,omitempty"`
	// Fetch names results that are too large to be carried here: they are
	// asked for by query.
	Fetch []string `json:"fetch,omitempty"`
}

// call is dr.Call without what can't be written.
type call struct {
	Run     dr.RunID                   `json:"run"`
	Step    string                     `json:"step"`
	Key     string                     `json:"key"`
	Undo    bool                       `json:"undo,omitempty"`
	Attempt int                        `json:"attempt"`
	Epochs  map[string]uint64          `json:"epochs,omitempty"`
	Results map[string]json.RawMessage `json:"results,omitempty"`
	Left    []string                   `json:"left,omitempty"`
}

// begun is the signal that an offer has been taken up.
type begun struct {
	Seq int `json:"seq"`
}

// outcome is what a step's activity returns.
type outcome struct {
	Kind  outcomeKind     `json:"kind"`
	Data  json.RawMessage `json:"data,omitempty"`
	Err   string          `json:"err,omitempty"`
	Final bool            `json:"final,omitempty"`
	// Begun says that the action was called, and Took for how long it ran by
	// its worker's clock.
	Begun bool          `json:"begun,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
}

type outcomeKind string

const (
	outcomeDone     outcomeKind = "done"
	outcomeFailed   outcomeKind = "failed"
	outcomeStopped  outcomeKind = "stopped"  // because its worker ends, or lost touch: neither failure nor loss
	outcomeDeclined outcomeKind = "declined" // never begun: another worker may be able to
)

// claimInput is that of the claiming and releasing activities.
type claimInput struct {
	Run   dr.RunID `json:"run"`
	Queue string   `json:"queue"`
	Start string   `json:"start,omitempty"`
	Locks []string `json:"locks"`
}

type claimOutcome struct {
	Epochs map[string]uint64 `json:"epochs,omitempty"`
	Busy   string            `json:"busy,omitempty"` // who holds what
	Held   bool              `json:"held,omitempty"` // others of the locks are claimed, and to be given back
}

// askInput says of which task queue it is to be known whether a worker is
// there, and how long one may take to answer.
type askInput struct {
	Queue string        `json:"queue"`
	Limit time.Duration `json:"limit"`
}

// decideInput is that of a decision's update and query.
type decideInput struct {
	Step     string      `json:"step"`
	Decision dr.Decision `json:"decision"`
}

type cancelInput struct {
	Why string `json:"why"`
}

// seen answers a status query; it is also what a workflow that ends returns.
type seen struct {
	Status packed `json:"status"`
	// Left names steps whose results are left out for their size.
	Left []string `json:"left,omitempty"`
}

// planned is the memo that tells what a run needs without asking it.
type planned struct {
	Run   dr.RunID `json:"run"`
	Flow  string   `json:"flow"`
	Locks []string `json:"locks,omitempty"`
	// Needs are the names of the plan's actions and undos, by queue.
	Needs map[string][]string `json:"needs,omitempty"`
}

// packed is a JSON value, compressed where that pays: payloads are bounded
// ([MaxPayload]).
type packed struct {
	JSON json.RawMessage `json:"json,omitempty"`
	Zip  []byte          `json:"zip,omitempty"`
}

// packFrom is the size from which on values are compressed. What is smaller
// can be read in Temporal's own console.
const packFrom = 16 << 10

// maxUnpacked bounds what a compressed value may become.
const maxUnpacked = 256 << 20

func pack(v any) (packed, error) {
	raw, err := json.Marshal(v)
	if err != nil || len(raw) < packFrom {
		return packed{JSON: raw}, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(raw); err != nil {
		return packed{}, err
	}
	if err := z.Close(); err != nil {
		return packed{}, err
	}
	return packed{Zip: b.Bytes()}, nil
}

func (p packed) size() int { return len(p.JSON) + len(p.Zip)*4/3 }

// open decodes the value. A value that isn't there leaves v as it is.
func (p packed) open(v any) error {
	raw := []byte(p.JSON)
	if p.Zip != nil {
		z, err := gzip.NewReader(bytes.NewReader(p.Zip))
		if err == nil {
			raw, err = io.ReadAll(io.LimitReader(z, maxUnpacked+1))
		}
		if err != nil {
			return fmt.Errorf("%w: %v", dr.ErrCorrupt, err)
		}
		if len(raw) > maxUnpacked {
			return fmt.Errorf("%w: it would have more than %d bytes", dr.ErrCorrupt, maxUnpacked)
		}
	}
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %v", dr.ErrCorrupt, err)
	}
	return nil
}
