package minilinux

import (
	"bytes"
	"fmt"
)

// cpio writes an archive as the kernel's initramfs wants it: the "newc"
// format of Documentation/driver-api/early-userspace/buffer-format.rst.
// Everything belongs to root and has no time, so equal trees are equal bytes.
type cpio struct {
	buf   bytes.Buffer
	nodes int
}

// Modes of what an archive holds.
const (
	cpioDir  = 0o040755
	cpioFile = 0o100644
	cpioRun  = 0o100755
	cpioChar = 0o020600
)

// add appends one entry. Folders come before what is in them. Major and minor
// are a character device's, else zero.
func (c *cpio) add(name string, mode uint32, content []byte, major, minor uint32) {
	c.nodes++
	fmt.Fprintf(&c.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.nodes, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	c.buf.WriteString(name)
	c.buf.WriteByte(0)
	c.pad()
	c.buf.Write(content)
	c.pad()
}

// bytes ends the archive and returns it.
func (c *cpio) bytes() []byte {
	c.add("TRAILER!!!", 0, nil, 0, 0)
	return c.buf.Bytes()
}

func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}
