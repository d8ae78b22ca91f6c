//go:build !linux

package physical

import (
	"fmt"
	"os"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func share(*os.File, string, int64) error {
	return fmt.Errorf("%w: files share blocks on Linux only", dr.ErrUnsupported)
}
