package vault

// SmallSegments makes tests have many segments of few bytes.
func (o Options) SmallSegments(size int) Options {
	o.segmentSize = size
	return o
}
