package agentwire

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Versions of the protocol that this package speaks, both ends included.
const (
	MinVersion = 1
	MaxVersion = 1
)

// FeatureRuns says that zeros in bodies don't travel. Without it every body is one run.
const FeatureRuns = "runs"

// FeatureFences says that calls carry their claims' epochs, and that the server gives
// them to its backend. Without it whoever was passed over isn't refused.
const FeatureFences = "fences"

// features are those that this package has.
var features = []string{FeatureRuns, FeatureFences}

// Greeting is what a client says first on every connection.
type Greeting struct {
	Min      int      `json:"min"` // versions that it speaks
	Max      int      `json:"max"`
	Features []string `json:"features,omitempty"`
	// Session joins this connection to one that is open; "": a new one.
	Session string `json:"session,omitempty"`
	// Replaces names a session of the same client that is over: the server
	// ends it before it answers.
	Replaces string `json:"replaces,omitempty"`
}

// NewGreeting is one for what this package can do.
func NewGreeting() Greeting {
	return Greeting{Min: MinVersion, Max: MaxVersion, Features: features}
}

// Terms are a server's answer: what holds on this connection and in its session.
type Terms struct {
	Version   int      `json:"version"`
	Features  []string `json:"features,omitempty"` // that both have
	Session   string   `json:"session"`
	Abilities []string `json:"abilities,omitempty"` // of the backend
	// Calls and Bulk are how many calls, and how many bulk calls among them,
	// the client may have under way in the session.
	Calls int `json:"calls"`
	Bulk  int `json:"bulk"`
	// KeepAlive is how often a client pings, in nanoseconds; after three
	// times that without a byte either side gives up.
	KeepAlive time.Duration `json:"keepAlive"`
	// Links is how many connections a session may have.
	Links int `json:"links"`
}

// Agree answers a greeting: the highest version and the features that both have.
// dr.ErrUnsupported if there is no common version.
func Agree(g Greeting) (version int, common []string, err error) {
	version = min(g.Max, MaxVersion)
	if version < g.Min || version < MinVersion {
		return 0, nil, fmt.Errorf("%w: the client speaks versions %d to %d of the agent protocol, this server %d to %d",
			dr.ErrUnsupported, g.Min, g.Max, MinVersion, MaxVersion)
	}
	for _, f := range features {
		if slices.Contains(g.Features, f) {
			common = append(common, f)
		}
	}
	return version, common, nil
}

// Check refuses terms that a client can't work with.
func (t Terms) Check() error {
	if t.Version < MinVersion || t.Version > MaxVersion || t.Session == "" || t.Calls < 1 || t.Bulk < 1 || t.Links < 1 || t.KeepAlive < time.Millisecond {
		return fmt.Errorf("%w: the server's terms make no sense: version %d, %d calls, %d bulk, %d links, keep-alive %v",
			ErrProtocol, t.Version, t.Calls, t.Bulk, t.Links, t.KeepAlive)
	}
	return nil
}

// Decode reads JSON of a peer into v.
func Decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	return nil
}
