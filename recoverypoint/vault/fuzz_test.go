package vault

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Sums would keep a fuzzer from everything behind them, so what they protect is
// given to the parsers directly.

func samplePage() *page {
	p := &page{level: 1}
	for i := range 40 {
		r := &p.refs[i*12]
		r.seg[15], r.off, r.len, r.sum[0] = byte(i/8), uint32(64+i%8*100), makeCodecLen(Zstd, 100), 1
	}
	return p
}

func FuzzPage(f *testing.F) {
	f.Add(appendPage(nil, samplePage()), 1)
	f.Add(appendPage(nil, &page{}), 0)
	f.Fuzz(func(t *testing.T, b []byte, level int) {
		var p page
		if parsePage(b, level, &p) != nil {
			return
		}
		// What is taken can be written and taken again, as the same.
		var q page
		require.NoError(t, parsePage(appendPage(nil, &p), level, &q))
		require.Equal(t, p, q)
	})
}

func sampleFooter() *footer {
	return &footer{owner: owner{machine: "m", point: "p", disks: []dr.Disk{{ID: "d", Size: 1 << 30}}}, entries: []entry{
		{chunk: 7, level: -1, flags: entryWhole, phys: 64, crc: 5, ref: ref{off: 64, len: makeCodecLen(Raw, chunkSize), sum: dr.Sum{1}}},
		{chunk: 8, level: -1, flags: entryZero},
		{chunk: 512, level: 0, phys: 70000, ref: ref{off: 70000, len: makeCodecLen(Raw, 900), sum: dr.Sum{2}}},
	}}
}

func FuzzFooter(f *testing.F) {
	f.Add(appendFooterBody(nil, sampleFooter()))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFooterBody(b, segID{}, trailer{end: 1 << 20, footer: 1 << 20})
		if err == nil {
			again, err := parseFooterBody(appendFooterBody(nil, got), segID{}, trailer{end: 1 << 20, footer: 1 << 20})
			require.NoError(t, err)
			require.Equal(t, got, again)
		}
	})
}

func FuzzSegmentEnd(f *testing.F) {
	var k *keyring
	end := k.appendFooter(nil, segID{1}, 5000, sampleFooter())
	f.Add(end, int64(5000+len(end)))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) < segmentTrailer {
			return
		}
		tr, err := parseTrailer(b[len(b)-segmentTrailer:], segID{1}, size)
		if err == nil && tr.end <= int(size) {
			_, _ = k.parseFooter(b, segID{1}, tr)
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add(appendHead(nil, &head{rev: 3, next: 9, entries: []headEntry{{1, "a"}, {8, "b.c-d"}}}))
	f.Add(appendHead(nil, &head{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHead(b); err == nil {
			require.Equal(t, b, appendHead(nil, h))
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := &manifest{Version: 1, Seq: 4, Point: dr.Point{ID: "p", Machine: dr.Machine{ID: "m"}, Time: time.Unix(1, 0).UTC()},
		Disks: []manifestDisk{{ID: "d", Size: 1 << 40, root: ref{seg: segID{1}, off: 64, len: makeCodecLen(Raw, 900), sum: dr.Sum{1}}}, {ID: "e"}}}
	b, err := encodeManifest(m)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		again, err := encodeManifest(m)
		require.NoError(t, err)
		got, err := parseManifest(again)
		require.NoError(t, err)
		for i := range m.Disks {
			require.Equal(t, m.Disks[i].root, got.Disks[i].root)
		}
	})
}

func FuzzDraftRecord(f *testing.F) {
	b, err := json.Marshal(&draftRecord{Version: 1, Turn: 2, Point: dr.Point{ID: "p"}})
	require.NoError(f, err)
	f.Add(b, "draft/m/000102030405060708090a0b")
	f.Fuzz(func(t *testing.T, b []byte, name string) { _, _ = parseDraftRecord(b, name) })
}

func FuzzEnvelope(f *testing.F) {
	var plain *keyring
	sealed := &keyring{key: make([]byte, keyLen)}
	f.Add(plain.seal(kindHead, "head/m", []byte("body")))
	f.Add(sealed.seal(kindHead, "head/m", []byte("body")))
	f.Add(plain.seal(kindVault, vaultName, []byte(`{"version":1,"id":"x","key":"AQ=="}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, k := range []*keyring{plain, sealed} {
			if body, err := k.unseal(kindHead, "head/m", b); err == nil {
				require.LessOrEqual(t, len(body), len(b))
			}
			// Behind the sum, which a fuzzer can't guess.
			c := append(bytes.Clone(b), envelopeSum("head/m", b)...)
			_, _ = k.unseal(kindHead, "head/m", c)
		}
		_, _ = parseVaultFile(append(bytes.Clone(b), envelopeSum(vaultName, b)...))
		_, _ = Passphrase([]byte("x")).(*passphrase).Unwrap(t.Context(), b[:min(len(b), wrappedLen-1)])
	})
}

func FuzzUnpack(f *testing.F) {
	p, err := newPackers()
	require.NoError(f, err)
	k := p.get()
	data := bytes.Repeat([]byte("some text "), 6000)
	for _, c := range []Codec{Raw, Zstd, S2} {
		row := []blob{{bytes: data}}
		k.pack(c, row)
		f.Add(byte(row[0].codec), bytes.Clone(row[0].bytes))
	}
	p.put(k)
	dst := make([]byte, chunkSize)
	f.Fuzz(func(t *testing.T, codec byte, b []byte) {
		if len(b) > maxBlob {
			return
		}
		if out, err := p.unpack(Codec(codec), b, dst); err == nil {
			require.LessOrEqual(t, len(out), chunkSize)
		}
	})
}
