package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
)

// CounterSize is the size of the counter's file: two slots. Number n is
// written to slot n mod 2, so the slot of n-1 is whole if power fails meanwhile.
const CounterSize = 2 * slotSize

// RecordSize of one record of the ring.
const RecordSize = 4096

const slotSize = 4096

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File is what numbers are kept in; *os.File is one.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Tally is a number that only grows and survives the loss of power at any
// moment. Before number n is durable, a record that is made from n is, in the
// ring: so records tell whether writes were kept in their order. Not safe for
// concurrent use.
type Tally struct {
	counter, ring File
	records       uint64
	value, boots  uint64
}

// OpenTally reads the newest number, zero if both files are empty, and counts
// one more boot, which becomes durable with the next number.
func OpenTally(counter, ring File, records int) (*Tally, error) {
	if records < 1 {
		return nil, errors.New("a ring without records")
	}
	t := &Tally{counter: counter, ring: ring, records: uint64(records)}
	for i := range int64(2) {
		var slot [32]byte
		if _, err := counter.ReadAt(slot[:], i*slotSize); err != nil && err != io.EOF {
			return nil, fmt.Errorf("counter: %w", err)
		}
		value, boots := binary.LittleEndian.Uint64(slot[8:]), binary.LittleEndian.Uint64(slot[16:])
		if string(slot[:8]) == slotMagic && sum(slot[:24]) == binary.LittleEndian.Uint32(slot[24:]) && value >= t.value {
			t.value, t.boots = value, boots
		}
	}
	t.boots++
	return t, nil
}

const slotMagic = "LBCOUNT1"

// Value is the newest durable number.
func (t *Tally) Value() uint64 { return t.value }

// Boots is how often a Tally was opened and then counted.
func (t *Tally) Boots() uint64 { return t.boots }

// Next makes the next number durable and returns it. After an error the
// number that is durable is the old or the new one.
func (t *Tally) Next() (uint64, error) {
	n := t.value + 1
	record := makeRecord(n)
	if _, err := t.ring.WriteAt(record, t.place(n)); err != nil {
		return 0, err
	}
	if err := t.ring.Sync(); err != nil {
		return 0, err
	}
	slot := append(make([]byte, 0, 32), slotMagic...)
	slot = binary.LittleEndian.AppendUint64(slot, n)
	slot = binary.LittleEndian.AppendUint64(slot, t.boots)
	slot = binary.LittleEndian.AppendUint32(slot, sum(slot))
	if _, err := t.counter.WriteAt(slot, int64(n%2)*slotSize); err != nil {
		return 0, err
	}
	if err := t.counter.Sync(); err != nil {
		return 0, err
	}
	t.value = n
	return n, nil
}

// Check reads the records of the last numbers and returns how many are whole.
// Each has to be, also after a crash: an error names the first that isn't.
// The oldest may have been overwritten by the number that was under way.
func (t *Tally) Check() (int, error) {
	whole := 0
	buf := make([]byte, RecordSize)
	for n := t.value; n > 0 && t.value-n < t.records; n-- {
		if _, err := t.ring.ReadAt(buf, t.place(n)); err != nil && err != io.EOF {
			return whole, fmt.Errorf("record %d: %w", n, err)
		}
		if string(buf) == string(makeRecord(n)) {
			whole++
			continue
		}
		if t.value-n == t.records-1 {
			break
		}
		return whole, fmt.Errorf("record %d of %d is not what was written", n, t.value)
	}
	return whole, nil
}

func (t *Tally) place(n uint64) int64 { return int64(n%t.records) * RecordSize }

// makeRecord fills a record with bytes that follow from its number, and that
// don't compress.
func makeRecord(n uint64) []byte {
	p := binary.LittleEndian.AppendUint64(make([]byte, 0, RecordSize), n)
	for r := rand.NewPCG(n, 0x6c696665626f6174); len(p) < RecordSize; {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p
}

func sum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }
