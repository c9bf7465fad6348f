package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// loopback is the index of lo in every network namespace.
const loopback = 1

// Features are what the programs use where the kernel has it.
type Features struct {
	SetRetval          bool // a refused connect() says ECONNREFUSED, not EPERM (5.18)
	SockopsNetnsCookie bool // sockops can tell network namespaces apart (5.15)
	TCNetns            bool // so can the egress of a device (6.15)
}

// Probe asks the kernel, never its version. A question that ends in anything but
// a clear no counts as yes: loading the programs then tells.
func Probe() Features {
	// Before 5.11 no question is answered under the usual limit of locked memory.
	_ = rlimit.RemoveMemlock()
	maybe := func(ask func() error) bool {
		have, _ := answer(ask)
		return have != AnswerNo
	}
	return Features{
		SetRetval:          maybe(askSetRetval),
		SockopsNetnsCookie: maybe(askSockopsNetns),
		TCNetns:            maybe(askTCNetns),
	}
}

// Usable reports whether this process may load programs and make maps at all.
// The error has a Remedy method.
func Usable() error {
	if err := loads(sockAddr()); err != nil {
		return explain("load a program", err)
	}
	return withTrie(func(*ebpf.Map) error { return nil })
}

func sockAddr(body ...asm.Instruction) *ebpf.ProgramSpec {
	return program(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, body...)
}

// program wraps instructions that find their context in R1 into a whole program.
func program(kind ebpf.ProgramType, attach ebpf.AttachType, body ...asm.Instruction) *ebpf.ProgramSpec {
	end := asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
	return &ebpf.ProgramSpec{
		Name:         "bpfacq_probe",
		Type:         kind,
		AttachType:   attach,
		License:      "Dual BSD/GPL",
		Instructions: append(asm.Instructions(body), end...),
	}
}

func loads(spec *ebpf.ProgramSpec) error {
	p, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogDisabled: true})
	if err != nil {
		return err
	}
	return p.Close()
}

// understands reports whether the kernel takes a program. If it also refuses a
// plain one, its refusal says nothing.
func understands(featured, plain *ebpf.ProgramSpec) error {
	err := loads(featured)
	if !refusal(err) {
		return err
	}
	if err := loads(plain); err != nil {
		return fmt.Errorf("load a plain program: %w", err)
	}
	return errAbsent
}

// refusal reports whether the kernel or its verifier did not know what it read,
// as opposed to having no memory or granting no permission.
func refusal(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) ||
		errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EOPNOTSUPP)
}

func askSetRetval() error {
	return understands(sockAddr(
		asm.Mov.Imm(asm.R1, -int32(unix.ECONNREFUSED)),
		asm.FnSetRetval.Call(),
	), sockAddr())
}

func askSockopsNetns() error {
	return understands(
		program(ebpf.SockOps, ebpf.AttachCGroupSockOps, asm.FnGetNetnsCookie.Call()),
		program(ebpf.SockOps, ebpf.AttachCGroupSockOps))
}

func askTCNetns() error {
	return understands(
		program(ebpf.SchedCLS, ebpf.AttachNone, asm.FnGetNetnsCookie.Call()),
		program(ebpf.SchedCLS, ebpf.AttachNone))
}

func askSkLookup() error {
	return understands(program(ebpf.SkLookup, ebpf.AttachSkLookup), sockAddr())
}

func askAtomicFetch() error {
	add := asm.FetchAdd.Mem(asm.RFP, asm.R2, asm.DWord, -8)
	add.Constant = 1 // BPF_FETCH, which the library forgets when it encodes
	return understands(sockAddr(
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
		add,
	), sockAddr())
}

func askSocketNetns() error {
	_, err := socketNetns()
	if errors.Is(err, unix.ENOPROTOOPT) {
		return errAbsent
	}
	return err
}

// askTCX lists the programs on lo: a kernel without tcx does not know the place.
func askTCX() error {
	_, _, err := programsOn(loopback, ebpf.AttachTCXEgress)
	if errors.Is(err, unix.EINVAL) {
		return errAbsent
	}
	return err
}

func askTrieBatch() error {
	return withTrie(func(trie *ebpf.Map) error {
		if err := trie.Put(trieKey(31), uint32(0)); err != nil {
			return fmt.Errorf("write one prefix: %w", err)
		}
		_, err := trie.BatchUpdate([]uint64{trieKey(31), trieKey(32)}, []uint32{1, 2}, nil)
		if refusal(err) {
			return errAbsent
		}
		return err
	})
}

// trieKey is 0.0.0.0/bits as a trie of four bytes of address keeps it.
func trieKey(bits uint32) uint64 { return uint64(bits) }

func withTrie(f func(*ebpf.Map) error) error {
	trie, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "bpfacq_probe", Type: ebpf.LPMTrie, Flags: unix.BPF_F_NO_PREALLOC,
		KeySize: 8, ValueSize: 4, MaxEntries: 4,
	})
	if err != nil {
		return explain("make a map", err)
	}
	defer trie.Close()
	return f(trie)
}

// askMemcg makes a map while no memory may be locked. Elsewhere in the process
// that may keep a map from being made at the same time, on kernels that say no.
func askMemcg() error {
	nothing := func(*ebpf.Map) error { return nil }
	if err := withTrie(nothing); err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &limit); err != nil {
		return fmt.Errorf("read the limit of locked memory: %w", err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &none, nil); err != nil {
		return fmt.Errorf("lower the limit of locked memory: %w", err)
	}
	err := withTrie(nothing)
	if restore := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); restore != nil {
		return fmt.Errorf("restore the limit of locked memory: %w", restore)
	}
	if errors.Is(err, unix.EPERM) {
		return errAbsent
	}
	return err
}
