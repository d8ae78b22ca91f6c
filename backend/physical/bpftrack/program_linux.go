package bpftrack

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

const (
	// steps is how many words of the bitmap one event may mark before it marks
	// everything. The longest bio has 2³²−1 bytes; it takes 1,026 words of
	// 64 blocks of 64 KiB. A request may be a chain of bios (discards).
	steps = 1536

	writeBit = 1    // operations that write are odd (linux/blk_types.h)
	opMask   = 0xff // REQ_OP_MASK
)

// watch is what one pair of programs looks for.
type watch struct {
	major, minor uint32 // of the whole disk
	start, len   uint64 // in sectors of 512 bytes; len 0: to the end, whatever it is
	shift        uint8  // a block has 1<<shift sectors
	words        uint32 // of the bitmap
	passthrough  bool   // commands beside the block layer are let pass unmarked
}

// at tells at which tracepoint a program runs.
type at int

const (
	atQueue at = iota
	atComplete
)

func (a at) String() string {
	return [...]string{"block_bio_queue", "block_rq_complete"}[a]
}

// program marks what a bio, or a request's chain of bios, writes.
//
// R6 bio or nil, R7 word to mark next, R8 last word of this bio,
// R9 steps left; the stack keeps first and last block and the map's key.
func program(a at, l layout, w watch, m *ebpf.Map) *ebpf.ProgramSpec {
	const first, last, key = -8, -16, -20
	var p asm.Instructions
	var name string // of the next instruction
	add := func(in ...asm.Instruction) {
		if name != "" {
			in[0], name = in[0].WithSymbol(name), ""
		}
		p = append(p, in...)
	}
	label := func(l string) { name = l }
	// disk leaves unless R1, a gendisk, is ours.
	disk := func() {
		add(asm.JEq.Imm(asm.R1, 0, "out"),
			asm.LoadMem(asm.R2, asm.R1, l.diskMinor, asm.Word),
			asm.JNE.Imm(asm.R2, int32(w.minor), "out"),
			asm.LoadMem(asm.R2, asm.R1, l.diskMajor, asm.Word),
			asm.JNE.Imm(asm.R2, int32(w.major), "out"))
	}
	switch a {
	case atQueue:
		add(asm.LoadMem(asm.R6, asm.R1, l.queueArg, asm.DWord),
			asm.LoadMem(asm.R2, asm.R6, l.bioOpf, asm.Word),
			asm.And.Imm(asm.R2, writeBit),
			asm.JEq.Imm(asm.R2, 0, "out"),
			asm.LoadMem(asm.R1, asm.R6, l.bioDev, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "out"),
			asm.LoadMem(asm.R1, asm.R1, l.bdevDisk, asm.DWord))
		disk()
	case atComplete:
		add(asm.LoadMem(asm.R6, asm.R1, l.completeArg, asm.DWord),
			asm.LoadMem(asm.R7, asm.R6, l.rqFlags, asm.Word),
			asm.And.Imm(asm.R7, opMask),
			asm.Mov.Reg(asm.R2, asm.R7),
			asm.And.Imm(asm.R2, writeBit),
			asm.JEq.Imm(asm.R2, 0, "out"),
			asm.LoadMem(asm.R1, asm.R6, l.rqQueue, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "out"),
			asm.LoadMem(asm.R1, asm.R1, l.queueDisk, asm.DWord))
		disk()
		unseen := "all"
		if w.passthrough {
			unseen = "out"
		}
		add(asm.JEq.Imm(asm.R7, l.drvOut, unseen),
			asm.LoadMem(asm.R6, asm.R6, l.rqBio, asm.DWord))
	}
	add(asm.Mov.Imm(asm.R9, steps))

	// One bio: its first and last block. What the loop jumps back over is one
	// flat loop, not a loop in a loop, so that the verifier counts steps once.
	label("bio")
	add(asm.JEq.Imm(asm.R6, 0, "out"),
		asm.LoadMem(asm.R1, asm.R6, l.bioSector, asm.DWord),
		asm.LoadMem(asm.R2, asm.R6, l.bioSize, asm.Word),
		asm.RSh.Imm(asm.R2, 9),
		asm.JEq.Imm(asm.R2, 0, "next"), // a flush without data
		asm.Add.Reg(asm.R2, asm.R1))    // R1 first sector, R2 the one behind the last
	if w.len > 0 {
		add(asm.LoadImm(asm.R3, int64(w.start), asm.DWord),
			asm.LoadImm(asm.R4, int64(w.start+w.len), asm.DWord),
			asm.JLE.Reg(asm.R2, asm.R3, "next"),
			asm.JGE.Reg(asm.R1, asm.R4, "next"),
			asm.JGE.Reg(asm.R1, asm.R3, "begins"),
			asm.Mov.Reg(asm.R1, asm.R3),
			asm.JLE.Reg(asm.R2, asm.R4, "ends").WithSymbol("begins"),
			asm.Mov.Reg(asm.R2, asm.R4),
			asm.Sub.Reg(asm.R1, asm.R3).WithSymbol("ends"),
			asm.Sub.Reg(asm.R2, asm.R3))
	}
	add(asm.Sub.Imm(asm.R2, 1),
		asm.RSh.Imm(asm.R1, int32(w.shift)),
		asm.RSh.Imm(asm.R2, int32(w.shift)),
		asm.StoreMem(asm.R10, first, asm.R1, asm.DWord),
		asm.StoreMem(asm.R10, last, asm.R2, asm.DWord),
		asm.Mov.Reg(asm.R7, asm.R1), asm.RSh.Imm(asm.R7, 6),
		asm.Mov.Reg(asm.R8, asm.R2), asm.RSh.Imm(asm.R8, 6),
		asm.LoadImm(asm.R3, int64(w.words), asm.DWord),
		asm.JGE.Reg(asm.R8, asm.R3, "all")) // the disk grew

	label("word")
	add(asm.JEq.Imm(asm.R9, 0, "all"),
		asm.Sub.Imm(asm.R9, 1),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, headerWords),
		asm.StoreMem(asm.R10, key, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "all"),
		// R5: the bits of this word from first to last. Shifts take the low
		// six bits of their count, so it needs no masking in the JIT; the
		// verifier wants it masked all the same.
		asm.Mov.Imm(asm.R5, -1),
		asm.LoadMem(asm.R1, asm.R10, first, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 6),
		asm.JNE.Reg(asm.R2, asm.R7, "low"),
		asm.And.Imm(asm.R1, 63),
		asm.LSh.Reg(asm.R5, asm.R1),
		asm.JNE.Reg(asm.R7, asm.R8, "set").WithSymbol("low"),
		asm.LoadMem(asm.R1, asm.R10, last, asm.DWord),
		asm.And.Imm(asm.R1, 63),
		asm.Mov.Imm(asm.R2, 63), asm.Sub.Reg(asm.R2, asm.R1),
		asm.Mov.Imm(asm.R3, -1),
		asm.RSh.Reg(asm.R3, asm.R2),
		asm.And.Reg(asm.R5, asm.R3),
		atomicOr().WithSymbol("set"),
		asm.Add.Imm(asm.R7, 1),
		asm.JLE.Reg(asm.R7, asm.R8, "word"))

	label("next")
	if a == atComplete {
		add(asm.JEq.Imm(asm.R9, 0, "all"),
			asm.Sub.Imm(asm.R9, 1),
			asm.LoadMem(asm.R6, asm.R6, l.bioNext, asm.DWord),
			asm.Ja.Label("bio"))
	} else {
		add(asm.Ja.Label("out"))
	}

	label("all")
	add(asm.StoreImm(asm.R10, key, wordAll, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"), // never: the header is always there
		asm.Mov.Imm(asm.R5, 1),
		atomicOr(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return())
	return &ebpf.ProgramSpec{
		Name: "lifeboat_track", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp,
		AttachTo: a.String(), License: "GPL", Instructions: p,
	}
}

// atomicOr is *(u64 *)R0 |= R5, by one atomic operation. Version 0.22.0 of
// cilium/ebpf encodes what an atomic operation does only if the constant says
// it too, and else makes each an addition.
func atomicOr() asm.Instruction {
	in := asm.OrAtomic.Mem(asm.R0, asm.R5, asm.DWord, 0)
	in.Constant = int64(asm.OrAtomic >> 8)
	return in
}
