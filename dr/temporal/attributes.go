package temporal

import sdk "go.temporal.io/sdk/temporal"

// Search attributes that runs set with [Options.SearchAttributes]; the
// namespace must have them.
var (
	FlowAttribute     = sdk.NewSearchAttributeKeyKeyword("LifeboatFlow")
	StateAttribute    = sdk.NewSearchAttributeKeyKeyword("LifeboatState")        // dr.RunState
	MachinesAttribute = sdk.NewSearchAttributeKeyKeywordList("LifeboatMachines") // the plan's locks
)
