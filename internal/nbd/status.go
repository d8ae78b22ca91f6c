package nbd

import "encoding/binary"

// maxDescriptors bounds a BLOCK_STATUS reply to what fits one piece; a client
// asks again for the rest. The protocol's own limit is 2^20.
const maxDescriptors = 16 << 10

// descriptor is the status of the next length bytes.
type descriptor struct{ length, status uint32 }

// blockStatus answers BLOCK_STATUS from the device's map. A map that fails
// after some extents is answered with those; one that fails at once is an
// error, lest a client take a failing disk for a full one.
func (s *session) blockStatus(req request) {
	limit := maxDescriptors
	if req.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	var ds []descriptor
	for e, err := range s.target.extents(s.ctx, int64(req.offset), int64(req.length)) {
		if err != nil {
			if len(ds) == 0 {
				s.answerResult(req, s.deviceError("block status", e.Off, e.Len, err))
				return
			}
			s.log.Warn("nbd: device failed", "op", "block status", "offset", e.Off, "length", e.Len, "err", err)
			break
		}
		var status uint32
		if e.Hole {
			status |= stateHole
		}
		if e.Zero {
			status |= stateZero
		}
		// Extents are clipped to the request, so a sum fits its 32 bits.
		if k := len(ds); k > 0 && ds[k-1].status == status {
			ds[k-1].length += uint32(e.Len)
			continue
		}
		if len(ds) == limit {
			break
		}
		ds = append(ds, descriptor{uint32(e.Len), status})
	}
	b := make([]byte, 0, 4+8*len(ds))
	b = binary.BigEndian.AppendUint32(b, contextAllocationID)
	for _, d := range ds {
		b = binary.BigEndian.AppendUint32(b, d.length)
		b = binary.BigEndian.AppendUint32(b, d.status)
	}
	s.answerChunks(&call{request: req, left: 1}, []chunk{{kind: chunkBlockStatus, data: b}}, nil)
}
