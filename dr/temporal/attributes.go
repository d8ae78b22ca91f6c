package temporal

import sdk "go.temporal.io/sdk/temporal"

// Search attributes that runs set with Options.SearchAttributes.
var (
	flowAttribute     = sdk.NewSearchAttributeKeyKeyword("LifeboatFlow")
	stateAttribute    = sdk.NewSearchAttributeKeyKeyword("LifeboatState")        // dr.RunState
	machinesAttribute = sdk.NewSearchAttributeKeyKeywordList("LifeboatMachines") // the plan's locks
)
