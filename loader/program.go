package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/bpfacq/bpfacq/bpf"
)

// Features are what the programs use where the kernel has it.
type Features struct {
	SetRetval          bool // a refused connect() says ECONNREFUSED, not EPERM (5.18)
	SockopsNetnsCookie bool // sockops can tell network namespaces apart (5.15)
}

// Probe asks the kernel, never its version. A probe that ends in anything but a
// clear no counts as yes: loading the programs then tells.
func Probe() Features {
	return Features{
		SetRetval:          haveHelper(ebpf.CGroupSockAddr, asm.FnSetRetval),
		SockopsNetnsCookie: haveHelper(ebpf.SockOps, asm.FnGetNetnsCookie),
	}
}

func haveHelper(program ebpf.ProgramType, helper asm.BuiltinFunc) bool {
	return !errors.Is(features.HaveProgramHelper(program, helper), ebpf.ErrNotSupported)
}

// loadObjects loads the programs over the maps in replace and new ones for the
// rest, with all probed features or else with none. The maps in replace stay the
// caller's.
func loadObjects(replace map[string]*ebpf.Map) (*bpf.SocketObjects, Features, error) {
	have := Probe()
	objects, err := loadWith(have, replace)
	if _, verifier := errors.AsType[*ebpf.VerifierError](err); verifier && have != (Features{}) {
		have = Features{}
		objects, err = loadWith(have, replace)
	}
	if err != nil {
		return nil, have, explain("load programs", err)
	}
	return objects, have, nil
}

func loadWith(have Features, replace map[string]*ebpf.Map) (*bpf.SocketObjects, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read the embedded object: %w", err)
	}
	var vars bpf.SocketVariableSpecs
	if err := spec.Assign(&vars); err != nil {
		return nil, fmt.Errorf("find program constants: %w", err)
	}
	if err := errors.Join(
		vars.HasSetRetval.Set(have.SetRetval),
		vars.HasSockopsNetnsCookie.Set(have.SockopsNetnsCookie),
	); err != nil {
		return nil, fmt.Errorf("set program constants: %w", err)
	}
	var objects bpf.SocketObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return nil, err
	}
	return &objects, nil
}
