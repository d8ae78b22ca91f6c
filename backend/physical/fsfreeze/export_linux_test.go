package fsfreeze

// What tests outside of the package share.
var (
	Sizes   = sizes
	Tool    = tool
	Run     = run
	Loop    = loop
	Sparse  = sparse
	Format  = format
	Mounted = mounted
)
