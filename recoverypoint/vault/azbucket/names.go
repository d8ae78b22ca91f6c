package azbucket

import (
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// nameBytes and maxPart are the contract's of vault.Bucket.
const (
	nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	maxPart   = 217
	// maxName is what Azure takes of a blob's name, in bytes.
	maxName = 1024
)

// dotEnd follows a part that ends with a dot, which Azure advises against: some
// of what handles URLs drops such dots. It is no byte of names, and comes before
// all of them, so that the order of names stays.
const dotEnd = "!"

// blobName is the blob that keeps an object.
func blobName(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || len(part) > maxPart || strings.Trim(part, nameBytes) != "" || part == "." || part == ".." {
			return "", fmt.Errorf("%w: object name %q", dr.ErrInvalid, name)
		}
	}
	b := blobPrefix(name)
	if strings.HasSuffix(b, ".") {
		b += dotEnd
	}
	if len(b) > maxName {
		return "", fmt.Errorf("%w: object name %q: longer than %d bytes", dr.ErrInvalid, name, maxName)
	}
	return b, nil
}

// blobPrefix is what the blobs' names begin with if the objects' do with prefix.
func blobPrefix(prefix string) string { return strings.ReplaceAll(prefix, "./", "."+dotEnd+"/") }

// objectName is the inverse of blobName. A blob of another's making, and of our
// locks, is none.
func objectName(blob string) (string, bool) {
	name := strings.ReplaceAll(blob, "."+dotEnd+"/", "./")
	if s, ok := strings.CutSuffix(name, "."+dotEnd); ok {
		name = s + "."
	}
	b, err := blobName(name)
	return name, err == nil && b == blob
}
