package suspicion

import (
	"fmt"
	"math"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Verdict is what is thought of one point.
type Verdict struct {
	Point dr.PointID `json:"point"`
	// Judged says that there were statistics to judge by. Points that were
	// copied in full, taken by the platform without moving a byte, or
	// resumed have none, and are not clean for it.
	Judged bool `json:"judged"`
	// Suspicious says that this point, or one that it was written over,
	// looks like mass encryption. What was encrypted stays so: points after
	// it are suspicious too, until the machine is brought back to an earlier
	// one or somebody accepts what happened ([Options]).
	Suspicious bool `json:"suspicious,omitempty"`
	// Own says that what was written for this point itself looks so, alone or
	// together with others: it isn't only written over what does.
	Own bool `json:"own,omitempty"`
	// Score is the point's own, whatever came before: 1 and more is
	// suspicious.
	Score float64 `json:"score"`
	// Since is the first suspicious point of the streak that this one is of,
	// and Reasons is why, in words for people.
	Since   dr.PointID `json:"since,omitempty"`
	Reasons []string   `json:"reasons,omitempty"`
}

// Options tune a judgement. The zero value is what the figures were made with.
type Options struct {
	// Accepted names points that a person has looked at and found harmless.
	// They are not suspicious, end a streak, and are from then on part of
	// what the machine usually does. nil accepts none.
	Accepted func(dr.PointID) bool
}

// The limits below were set by the workloads in figures_test.go and are stated
// with what they let pass in docs/decisions/0021.
const (
	// least is how many turned blocks of 64 KiB (4 MiB) a single point must
	// have: less is within the noise of any file system.
	least = 64
	// share is which part of the blocks that packed before must have turned
	// in one point, and slowShare over several.
	share, slowShare = 0.4, 0.35
	// growth is how many bytes of growth in place count as one turned block:
	// more than what a compressed log adds to a block that it is written over.
	growth = 48 << 10
	// sigmas is how many robust deviations above the machine's median
	// suspicion begins.
	sigmas = 6
	// leastSlow is how many turned blocks above the usual must come together
	// over several points.
	leastSlow = 64
	// patience is over how many points slow encryption is summed up before
	// what is summed is taken for the machine's new habit.
	patience = 100
	// memory bounds the past that is compared with, in points.
	memory = 100
	// few is the number of points below which a past proves nothing.
	few = 5
	// denseLeast and denseTimes are for stores that can't tell how blocks
	// packed: how many random-looking blocks (64 MiB) a point must have, and
	// how many times the most that the past has.
	denseLeast, denseTimes = 1024, 4
)

// Judge judges a machine's points, given as a store's List yields them, oldest
// first, and returns a verdict for each. It changes nothing and may be called
// by any number of goroutines.
//
// A point inherits suspicion from the one that it was written over, or if that
// is not in the list from the one before it.
func Judge(points []dr.Point, o Options) []Verdict {
	j := judge{all: make([]Verdict, len(points))}
	at := map[dr.PointID]int{}
	for i, p := range points {
		v := &j.all[i]
		v.Point, v.Judged = p.ID, p.Parent != "" && p.Changes.Complete
		accepted := o.Accepted != nil && o.Accepted(p.ID)
		from, ok := at[p.Parent]
		if !ok {
			from = i - 1
		}
		at[p.ID] = i
		if v.Judged {
			j.look(i, p.Changes, accepted)
		}
		if accepted {
			v.Suspicious, v.Own, v.Since, v.Reasons = false, false, "", nil
			j.slow = sum{}
			continue
		}
		if from >= 0 && j.all[from].Suspicious {
			v.Suspicious, v.Since = true, j.all[from].Since
			v.Reasons = append(v.Reasons, fmt.Sprintf("it was written over point %s, which is suspicious", j.all[from].Point))
		}
	}
	return j.all
}

// judge is a judgement under way.
type judge struct {
	all  []Verdict
	past []dr.ChangeStats // judged points that were not suspicious
	slow sum
}

// sum is a row of points that are each a little above the usual.
type sum struct {
	from         int // the first of them
	n            int
	usual, scale float64
	excess       float64 // turned blocks above the usual
	turned, over float64
	balance      int64 // grown less shrunk
}

// look judges the i-th point by its own statistics.
func (j *judge) look(i int, s dr.ChangeStats, accepted bool) {
	v := &j.all[i]
	if s.Known > 0 || s.Blocks == 0 {
		v.Score = j.turned(v, s)
		if v.Score < 1 && !accepted {
			j.gather(i, s)
		}
	} else {
		v.Score = j.dense(v, s)
	}
	v.Own = v.Own || v.Score >= 1
	if v.Score >= 1 && !v.Suspicious {
		v.Suspicious, v.Since = true, v.Point
	}
	if (!v.Suspicious || accepted) && j.slow.n == 0 {
		if j.past = append(j.past, s); len(j.past) > memory {
			j.past = j.past[1:]
		}
	}
}

// turned scores one point: by how much it is beyond each limit, the least of
// them.
func (j *judge) turned(v *Verdict, s dr.ChangeStats) float64 {
	if s.Over == 0 || s.Grown <= s.Shrunk {
		return 0
	}
	usual, scale := habit(j.past, turnedOf)
	x := turnedOf(s)
	score := min(x/least, x/float64(s.Over)/share, (x-usual)/(sigmas*scale))
	if most := 1.25 * highest(j.past, turnedOf); most > 0 {
		score = min(score, x/most)
	}
	if score >= 1 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%d of %d blocks that could be compressed before can't be any more (usually %.0f), and content grew by %d KiB where it was and shrank by %d",
			s.Turned, s.Over, usual, s.Grown>>10, s.Shrunk>>10))
	}
	return max(0, score)
}

// gather sums up what is a little above the usual, and judges the sum. What is
// usual is fixed when a sum begins, so that a slow attack doesn't become it.
func (j *judge) gather(i int, s dr.ChangeStats) {
	c := &j.slow
	if c.n == 0 {
		*c = sum{from: i}
		c.usual, c.scale = habit(j.past, turnedOf)
	}
	c.excess += turnedOf(s) - c.usual - c.scale/2
	c.turned += turnedOf(s)
	c.over += float64(s.Over)
	c.balance += s.Grown - s.Shrunk
	c.n++
	if c.excess <= 0 || c.n > patience {
		*c = sum{}
		return
	}
	v := &j.all[i]
	score := min(c.excess/leastSlow, c.turned/max(1, c.over)/slowShare, c.excess/(2*sigmas*c.scale))
	if c.n < 2 || c.balance <= 0 || score < 1 {
		return
	}
	v.Score = score
	v.Reasons = append(v.Reasons, fmt.Sprintf("over %d points since %s, %.0f of %.0f blocks that could be compressed before can't be any more (usually %.0f a point): slow, but one way",
		c.n, j.all[c.from].Point, c.turned, c.over, c.usual))
	since := j.all[c.from].Point
	if j.all[c.from].Suspicious {
		since = j.all[c.from].Since // of an earlier streak
	}
	for k := c.from; k <= i; k++ {
		j.all[k].Suspicious, j.all[k].Own, j.all[k].Since = true, true, since
		if k < i && len(j.all[k].Reasons) == 0 {
			j.all[k].Reasons = []string{fmt.Sprintf("part of what shows at point %s", v.Point)}
		}
	}
	*c = sum{}
}

// dense scores a point of which only samples are known.
func (j *judge) dense(v *Verdict, s dr.ChangeStats) float64 {
	if len(j.past) < few {
		return 0
	}
	of := func(s dr.ChangeStats) float64 { return float64(s.Dense) }
	usual, scale := habit(j.past, of)
	part := float64(s.Dense) / float64(max(1, s.Blocks))
	score := min(of(s)/denseLeast, part/0.7, (of(s)-usual)/(sigmas*scale), of(s)/(denseTimes*max(1, highest(j.past, of))))
	if score >= 1 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%d of %d blocks written look random, %.0f times what was the most; how they were before is not known", s.Dense, s.Blocks, of(s)/max(1, highest(j.past, of))))
	}
	return max(0, score)
}

// turnedOf is how many blocks turned, or as many as the growth of all is worth:
// of blocks that are encrypted in part only that is seen.
func turnedOf(s dr.ChangeStats) float64 {
	return max(float64(s.Turned), float64(s.Grown-s.Shrunk)/growth)
}

// habit returns the median, and a deviation that single outliers don't move.
// It is never less than what chance makes of small numbers.
func habit(past []dr.ChangeStats, of func(dr.ChangeStats) float64) (median, scale float64) {
	if len(past) == 0 {
		return 0, 2
	}
	x := make([]float64, len(past))
	for i, s := range past {
		x[i] = of(s)
	}
	median = middle(x)
	for i := range x {
		x[i] = math.Abs(x[i] - median)
	}
	return median, max(1.4826*middle(x), math.Sqrt(median), 2)
}

func middle(x []float64) float64 {
	slices.Sort(x)
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

func highest(past []dr.ChangeStats, of func(dr.ChangeStats) float64) (most float64) {
	for _, s := range past {
		most = max(most, of(s))
	}
	return most
}
