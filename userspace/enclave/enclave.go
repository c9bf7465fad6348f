// Package enclave makes the private network namespaces in which acquired packets
// are received.
//
// An [Enclave] belongs to one uplink. It is an anonymous namespace, in which every
// address is local, and a veth pair: what is redirected into the host's end of
// the pair arrives in the namespace with its destination as it was, and what the
// namespace's sockets answer leaves the host's end again. Nothing else of the
// host changes.
package enclave

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/rtnetlink"
)

// Options say for which uplink an enclave is.
type Options struct {
	// Name is that of the host's end of the pair. Empty is the first of acq0,
	// acq1, … that is free.
	Name string

	// MTU is that of the uplink, in bytes: no packet that leaves the enclave is
	// longer.
	MTU int

	// MAC is that of the uplink; nil if it has none.
	MAC net.HardwareAddr
}

// Enclave is a private namespace and the pair that leads to it.
type Enclave struct {
	namespace *netns.Namespace
	host      *netlink.Handle // in the namespace of the host's end
	inside    *netlink.Handle
	pair      *netlink.Veth // the host's end
	peer      int           // index of the other
}

// Open makes an enclave whose pair ends in the calling thread's network
// namespace. On an error nothing of it is left. The caller closes it.
func Open(opts Options) (_ *Enclave, err error) {
	e := &Enclave{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make enclave: %w", errors.Join(err, e.Close()))
		}
	}()
	if e.namespace, err = netns.New(); err != nil {
		return nil, err
	}
	if e.inside, err = e.namespace.Handle(); err != nil {
		return nil, err
	}
	if e.host, err = rtnetlink.Open(); err != nil {
		return nil, err
	}
	if err := e.addPair(opts.Name); err != nil {
		return nil, err
	}
	// The way inside is ready before anything can be sent there.
	if err := e.furnish(opts); err != nil {
		return nil, err
	}
	if err := e.showPair(); err != nil {
		return nil, err
	}
	if err := e.await(); err != nil {
		return nil, err
	}
	return e, nil
}

// Namespace is the private namespace; it stays the Enclave's.
func (e *Enclave) Namespace() *netns.Namespace { return e.namespace }

// Device is the index of the host's end of the pair.
func (e *Enclave) Device() int { return e.pair.Index }

// Name is that of the host's end of the pair when it was made.
func (e *Enclave) Name() string { return e.pair.Name }

// PeerMAC is the address of the end in the namespace, which receives no frame to
// another one.
func (e *Enclave) PeerMAC() net.HardwareAddr { return e.pair.PeerHardwareAddr }

// Check returns an error if the host's end of the pair is gone or down: the
// enclave is of no use any more then, and is closed and made anew.
func (e *Enclave) Check() error {
	found, err := e.host.LinkByIndex(e.pair.Index)
	if err != nil {
		return fmt.Errorf("find %s: %w", e.pair.Name, err)
	}
	if !ours(found) || found.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("look at %s: %w", e.pair.Name, unix.ENETDOWN)
	}
	return nil
}

// Close removes the pair at once, and the namespace with the last socket in it.
func (e *Enclave) Close() error {
	var errs []error
	if e.pair != nil {
		errs = append(errs, remove(e.host, e.pair))
	}
	for _, handle := range []*netlink.Handle{e.host, e.inside} {
		if handle != nil {
			handle.Close()
		}
	}
	if e.namespace != nil {
		errs = append(errs, e.namespace.Close())
	}
	return errors.Join(errs...)
}
