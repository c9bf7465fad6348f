package loader

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfacq/bpfacq/bpf"
)

// Sockets are the file descriptors of the sockets to which an enclave's packets
// are handed: TCP listeners, and the first members of groups of UDP sockets
// (SO_REUSEPORT). Zero is none: packets of that kind are refused. They stay the
// caller's, who keeps them open.
type Sockets struct{ TCP4, TCP6, UDP4, UDP6 int }

// AttachEnclave hands all TCP and UDP that arrives in the network namespace of a
// file descriptor to the sockets, whatever its destination, but for what the
// policy refuses. It ends when the closer is closed, or with the process.
func (d *Datapath) AttachEnclave(namespace int, to Sockets) (io.Closer, error) {
	if d.packets == nil {
		return nil, fmt.Errorf("attach to an enclave: %w", errNoPackets)
	}
	spec, err := packetSpecWith(d.Features)
	if err != nil {
		return nil, err
	}
	// Each enclave has a program and a map of sockets of its own: programs of
	// this kind cannot tell namespaces apart on all kernels.
	spec.Programs = map[string]*ebpf.ProgramSpec{bpf.PacketProgBpfacqLookup: spec.Programs[bpf.PacketProgBpfacqLookup]}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: d.Maps.Packets(spec)})
	if err != nil {
		return nil, explain("load the program of an enclave", err)
	}
	defer collection.Close()
	if err := to.put(collection.Maps[bpf.PacketMapBpfacqSocket]); err != nil {
		return nil, err
	}
	attached, err := link.AttachNetNs(namespace, collection.Programs[bpf.PacketProgBpfacqLookup])
	if err != nil {
		return nil, explain("attach to an enclave", err)
	}
	return attached, nil
}

// put fills in the map of an enclave's sockets.
func (s Sockets) put(sockets *ebpf.Map) error {
	var errs []error
	for place, fd := range map[bpf.PacketRelaySocket]int{
		bpf.PacketRelaySocketRELAY_TCP4: s.TCP4, bpf.PacketRelaySocketRELAY_TCP6: s.TCP6,
		bpf.PacketRelaySocketRELAY_UDP4: s.UDP4, bpf.PacketRelaySocketRELAY_UDP6: s.UDP6,
	} {
		if fd == 0 {
			continue
		}
		if err := sockets.Put(uint32(place), uint64(fd)); err != nil {
			errs = append(errs, explain(fmt.Sprintf("hand over socket %d of an enclave", place), err))
		}
	}
	return errors.Join(errs...)
}
