package winhost

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What virtdisk.h and oaidl.h make of these on a 64-bit Windows, by the rules of
// C: virtdisk itself can't be asked here.
func TestStructuresLieAsTheHeadersSay(t *testing.T) {
	var c createParameters
	require.EqualValues(t, 8, unsafe.Offsetof(c.id))
	require.EqualValues(t, 24, unsafe.Offsetof(c.size))
	require.EqualValues(t, 32, unsafe.Offsetof(c.blockSize))
	require.EqualValues(t, 40, unsafe.Offsetof(c.physicalSector))
	require.EqualValues(t, 48, unsafe.Offsetof(c.parentPath))
	require.EqualValues(t, 64, unsafe.Offsetof(c.openFlags))
	require.EqualValues(t, 68, unsafe.Offsetof(c.parentStorageType))
	require.EqualValues(t, 108, unsafe.Offsetof(c.resiliency))
	require.EqualValues(t, 128, unsafe.Sizeof(c))
	require.EqualValues(t, 28, unsafe.Sizeof(openParameters{}))
	require.EqualValues(t, 20, unsafe.Sizeof(storageType{}))
	require.EqualValues(t, 8, unsafe.Sizeof(attachParameters{}))
	require.EqualValues(t, 16, unsafe.Sizeof(resizeParameters{}))
	require.EqualValues(t, 24, unsafe.Sizeof(changed{}))
	require.EqualValues(t, 24, unsafe.Sizeof(dispParams{}))
	require.EqualValues(t, 64, unsafe.Sizeof(excepInfo{}))
	require.EqualValues(t, 56, unsafe.Offsetof(excepInfo{}.scode))
}

func TestAnswersOfVirtdiskAreRead(t *testing.T) {
	i := new(diskInfo)
	b := i.bytes()
	copy(b[8:], []byte{0x67, 0x45, 0x23, 0xC1, 0xAB, 0x89, 0xEF, 0xCD, 1, 2, 3, 4, 5, 6, 7, 0xF8})
	require.Equal(t, "c1234567-89ab-cdef-0102-0304050607f8", i.guid(8))
	copy(b[12:], []byte{'C', 0, ':', 0, 0xFC, 0, 0, 0, 'x', 0})
	require.Equal(t, "C:ü", i.text(12))
	for at := range b {
		b[at] = 'x'
	}
	require.Len(t, i.text(16), (len(b)-16)/2*len("硸"), "a text without an end ends with the answer")
}
