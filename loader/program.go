package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

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
	spec, err := specWith(have)
	if err != nil {
		return nil, err
	}
	var objects bpf.SocketObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return nil, err
	}
	return &objects, nil
}

// packetPrograms loads the programs of the packet path over the maps of a
// datapath, with what its socket programs use of the kernel.
func packetPrograms(over *maps.Maps, have Features) (*bpf.PacketPrograms, error) {
	load := func(have Features) (*bpf.PacketPrograms, error) {
		spec, err := packetSpecWith(have)
		if err != nil {
			return nil, err
		}
		var programs bpf.PacketPrograms
		if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: over.Packets(spec)}); err != nil {
			return nil, err
		}
		return &programs, nil
	}
	programs, err := load(have)
	if _, verifier := errors.AsType[*ebpf.VerifierError](err); verifier && have != (Features{}) {
		programs, err = load(Features{})
	}
	if err != nil {
		return nil, explain("load programs of the packet path", err)
	}
	return programs, nil
}

// specWith is the embedded object with its constants set.
func specWith(have Features) (*ebpf.CollectionSpec, error) {
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
	return spec, nil
}

// packetSpecWith is the same of the packet path.
func packetSpecWith(have Features) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadPacket()
	if err != nil {
		return nil, fmt.Errorf("read the embedded object of the packet path: %w", err)
	}
	var vars bpf.PacketVariableSpecs
	if err := spec.Assign(&vars); err != nil {
		return nil, fmt.Errorf("find program constants: %w", err)
	}
	if err := vars.HasTcNetns.Set(have.TCNetns); err != nil {
		return nil, fmt.Errorf("set program constants: %w", err)
	}
	return spec, nil
}
