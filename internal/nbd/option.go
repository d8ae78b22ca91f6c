package nbd

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// infoQuery is the data of INFO and GO: an export's name, and the items of
// information that the client wants.
type infoQuery struct {
	name  string
	items []uint16
}

func (q infoQuery) append(b []byte) []byte {
	b = appendString(b, q.name)
	b = binary.BigEndian.AppendUint16(b, uint16(len(q.items)))
	for _, it := range q.items {
		b = binary.BigEndian.AppendUint16(b, it)
	}
	return b
}

func parseInfoQuery(b []byte) (infoQuery, error) {
	var q infoQuery
	var err error
	if q.name, b, err = cutString(b, "export name"); err != nil {
		return infoQuery{}, err
	}
	if len(b) < 2 {
		return infoQuery{}, fmt.Errorf("%w: no number of information requests", errProtocol)
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) != 2*n {
		return infoQuery{}, fmt.Errorf("%w: %d bytes for %d information requests", errProtocol, len(b), n)
	}
	q.items = make([]uint16, n)
	for i := range q.items {
		q.items[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return q, nil
}

// metaQuery is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type metaQuery struct {
	export  string
	queries []string
}

func (q metaQuery) append(b []byte) []byte {
	b = appendString(b, q.export)
	b = binary.BigEndian.AppendUint32(b, uint32(len(q.queries)))
	for _, s := range q.queries {
		b = appendString(b, s)
	}
	return b
}

func parseMetaQuery(b []byte) (metaQuery, error) {
	var q metaQuery
	var err error
	if q.export, b, err = cutString(b, "export name"); err != nil {
		return metaQuery{}, err
	}
	if len(b) < 4 {
		return metaQuery{}, fmt.Errorf("%w: no number of queries", errProtocol)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	// The count is believed only as far as the data reaches.
	for i := uint32(0); i < n; i++ {
		var s string
		if s, b, err = cutString(b, "query"); err != nil {
			return metaQuery{}, err
		}
		q.queries = append(q.queries, s)
	}
	if len(b) != 0 {
		return metaQuery{}, fmt.Errorf("%w: %d bytes after the last query", errProtocol, len(b))
	}
	return q, nil
}

// exportInfo is the payload of the EXPORT item, and, without the item's number,
// of the answer to EXPORT_NAME.
type exportInfo struct {
	size  uint64
	flags uint16
}

func (i exportInfo) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, i.size)
	return binary.BigEndian.AppendUint16(b, i.flags)
}

func parseExportInfo(b []byte) (exportInfo, error) {
	if len(b) != 10 {
		return exportInfo{}, fmt.Errorf("%w: export information of %d bytes, not 10", errProtocol, len(b))
	}
	return exportInfo{size: binary.BigEndian.Uint64(b), flags: binary.BigEndian.Uint16(b[8:])}, nil
}

// blockSizeInfo is the payload of the BLOCK_SIZE item, in bytes.
type blockSizeInfo struct{ minimum, preferred, maxPayload uint32 }

func (i blockSizeInfo) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, i.minimum)
	b = binary.BigEndian.AppendUint32(b, i.preferred)
	return binary.BigEndian.AppendUint32(b, i.maxPayload)
}

func parseBlockSizeInfo(b []byte) (blockSizeInfo, error) {
	if len(b) != 12 {
		return blockSizeInfo{}, fmt.Errorf("%w: block sizes of %d bytes, not 12", errProtocol, len(b))
	}
	return blockSizeInfo{
		minimum:    binary.BigEndian.Uint32(b),
		preferred:  binary.BigEndian.Uint32(b[4:]),
		maxPayload: binary.BigEndian.Uint32(b[8:]),
	}, nil
}

// appendString appends a string behind its 32-bit length.
func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// cutString takes a string and its 32-bit length off the front of b.
func cutString(b []byte, what string) (string, []byte, error) {
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w: %s has no length", errProtocol, what)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, fmt.Errorf("%w: %s of %d bytes in %d bytes of data", errProtocol, what, n, len(b))
	}
	s := string(b[:n])
	if err := checkString(s, what); err != nil {
		return "", nil, err
	}
	return s, b[n:], nil
}

// checkString applies the protocol's rules for strings.
func checkString(s, what string) error {
	if len(s) > maxString {
		return fmt.Errorf("%w: %s of %d bytes; the limit is %d", errProtocol, what, len(s), maxString)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %s is not UTF-8", errProtocol, what)
	}
	for i := range len(s) {
		if s[i] == 0 {
			return fmt.Errorf("%w: %s holds a NUL", errProtocol, what)
		}
	}
	return nil
}
