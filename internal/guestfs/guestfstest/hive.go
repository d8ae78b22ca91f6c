package guestfstest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// emptyHive is a registry hive with a root key and nothing else.
func emptyHive() []byte {
	le := binary.LittleEndian
	b := make([]byte, 8192)
	copy(b, "regf")
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[20:], 1) // version 1.5
	le.PutUint32(b[24:], 5)
	le.PutUint32(b[32:], 1)
	le.PutUint32(b[36:], 0x20) // the root key
	le.PutUint32(b[40:], 4096)
	le.PutUint32(b[44:], 1)
	sum := uint32(0)
	for i := 0; i < 508; i += 4 {
		sum ^= le.Uint32(b[i:])
	}
	le.PutUint32(b[508:], sum)
	bin := b[4096:]
	copy(bin, "hbin")
	le.PutUint32(bin[8:], 4096)
	key := bin[0x20:]
	const size = 4 + 76 + 4 + 4
	le.PutUint32(key, uint32(0x100000000-size))
	copy(key[4:], "nk")
	le.PutUint16(key[6:], 0x2c) // root, no deletion, name in Latin-1
	for _, none := range []int{0x10 + 4, 0x1c + 4, 0x20 + 4, 0x28 + 4, 0x30 + 4} {
		le.PutUint32(key[none:], 0xffffffff)
	}
	le.PutUint32(key[4+16:], 0xffffffff) // parent
	le.PutUint32(key[4+20:], 0)          // keys
	le.PutUint32(key[4+24:], 0)
	le.PutUint32(key[4+28:], 0xffffffff)
	le.PutUint32(key[4+32:], 0xffffffff)
	le.PutUint32(key[4+36:], 0) // values
	le.PutUint32(key[4+40:], 0xffffffff)
	le.PutUint32(key[4+44:], size) // security: behind the key
	le.PutUint32(key[4+48:], 0xffffffff)
	le.PutUint16(key[4+72:], 4)
	copy(key[4+76:], "ROOT")
	le.PutUint32(key[4+44:], 0x20+size)
	sk := key[size:]
	le.PutUint32(sk, uint32(0x100000000-56))
	copy(sk[4:], "sk")
	le.PutUint32(sk[8:], 0x20+size)
	le.PutUint32(sk[12:], 0x20+size)
	le.PutUint32(sk[16:], 1)
	le.PutUint32(sk[20:], 20)
	sk[24], sk[27] = 1, 0x80 // an empty security descriptor, self-relative
	free := sk[56:]
	le.PutUint32(free, uint32(len(free)))
	return b
}

// Hive makes a hive of what regedit's text says, below HKEY_LOCAL_MACHINE\HIVE.
func Hive(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	name, reg := filepath.Join(dir, "hive"), filepath.Join(dir, "reg")
	require.NoError(t, os.WriteFile(name, emptyHive(), 0o600))
	require.NoError(t, os.WriteFile(reg, []byte("Windows Registry Editor Version 5.00\n\n"+parents(text)+text), 0o600))
	Run(t, "hivexregedit", "--merge", "--prefix", `HKEY_LOCAL_MACHINE\HIVE`, name, reg)
	return name
}

// parents are the keys above those of a text, which regedit would make.
func parents(text string) string {
	var all strings.Builder
	seen := map[string]bool{}
	for l := range strings.Lines(text) {
		k, ok := strings.CutPrefix(strings.TrimSpace(l), "[")
		if !ok {
			continue
		}
		k = strings.TrimSuffix(k, "]")
		parts := strings.Split(k, `\`)
		for i := 3; i <= len(parts); i++ {
			if p := strings.Join(parts[:i], `\`); !seen[p] {
				seen[p] = true
				all.WriteString("[" + p + "]\n\n")
			}
		}
	}
	return all.String()
}
