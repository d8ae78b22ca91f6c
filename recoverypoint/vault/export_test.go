package vault

// SmallSegments makes tests have many segments of few bytes, and prune and
// scrub walk few points at once.
func (o Options) SmallSegments(size int) Options {
	o.segmentSize, o.walkBatch = size, 2
	return o
}
