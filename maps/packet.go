package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
)

// SetLearnFrom says from when on (CLOCK_MONOTONIC) a datagram from the network
// opens a flow, whose answers then go back the way that it came. A policy that is
// put in force needs some seconds before that: what a destination still answers to
// flows that went direct until then is no question.
func (m *Maps) SetLearnFrom(at time.Duration) error {
	_, err := m.agent.WriteAt(word64(uint64(at)), int64(unsafe.Offsetof(bpf.SocketAgent{}.LearnFrom)))
	if err != nil {
		return fmt.Errorf("write start of learning: %w", err)
	}
	return nil
}

// Source says whose socket sends from an address and port.
type Source struct {
	PID, UID     uint32 // of the task that connected or sent first; both 0 if no hook saw it
	SocketCookie uint64
}

// Source finds the socket of this host behind acquired packets, by the address
// and port from which they come, as the relay sees them. The error is ErrNoRecord if
// none is known: then they are forwarded ones, or it was long ago.
func (m *Maps) Source(protocol Transport, from netip.AddrPort) (Source, error) {
	key := bpf.SocketSourceKey{Addr: from.Addr().As16(), Port: wirePort(from.Port()), Protocol: protocol.number()}
	var raw bpf.SocketSource
	err := m.objects.BpfacqSource.Lookup(&key, &raw)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Source{}, ErrNoRecord
	}
	if err != nil {
		return Source{}, fmt.Errorf("read source %s: %w", from, err)
	}
	return Source{PID: raw.Pid, UID: raw.Uid, SocketCookie: raw.Cookie}, nil
}

// Opener is the side that sent the first packet of a flow.
type Opener uint32

// The openers, numbered as in the datapath.
const (
	OpenerNone  = Opener(bpf.SocketOpenerOPENER_NONE)  // not known
	OpenerHere  = Opener(bpf.SocketOpenerOPENER_HERE)  // this host, or what it forwards for: to be acquired
	OpenerThere = Opener(bpf.SocketOpenerOPENER_THERE) // the other side: what is sent there is an answer
)

// String returns the opener's name.
func (o Opener) String() string {
	switch o {
	case OpenerNone:
		return "none"
	case OpenerHere:
		return "here"
	case OpenerThere:
		return "there"
	}
	return fmt.Sprintf("opener(%d)", uint32(o))
}

// Ends are the two ends of a flow as the egress of an uplink has them.
type Ends struct {
	Protocol      Transport
	Local, Remote netip.AddrPort
}

// SetOpener tells the programs who opened a flow, as of now. They learn it
// themselves from the first packet that they see of it.
func (m *Maps) SetOpener(ends Ends, opener Opener) error {
	now, err := Monotonic()
	if err != nil {
		return err
	}
	raw := bpf.SocketOpening{Seen: uint64(now), Opener: uint32(opener)}
	if err := m.objects.BpfacqOpening.Put(rawEnds(ends), &raw); err != nil {
		return fmt.Errorf("write opener of a flow: %w", err)
	}
	return nil
}

// Opener reads who opened a flow, OpenerNone if that is not known.
func (m *Maps) Opener(ends Ends) (Opener, error) {
	var raw bpf.SocketOpening
	if err := absentIsFine(m.objects.BpfacqOpening.Lookup(rawEnds(ends), &raw)); err != nil {
		return OpenerNone, fmt.Errorf("read opener of a flow: %w", err)
	}
	return Opener(raw.Opener), nil
}

func rawEnds(e Ends) *bpf.SocketFlowKey {
	return &bpf.SocketFlowKey{
		LocalAddr:  e.Local.Addr().As16(),
		RemoteAddr: e.Remote.Addr().As16(),
		LocalPort:  wirePort(e.Local.Port()),
		RemotePort: wirePort(e.Remote.Port()),
		Protocol:   e.Protocol.number(),
	}
}

func newEnds(raw *bpf.SocketFlowKey) Ends {
	return Ends{
		Protocol: transport(raw.Protocol),
		Local:    addrPort(raw.LocalAddr, raw.LocalPort),
		Remote:   addrPort(raw.RemoteAddr, raw.RemotePort),
	}
}

// number is the protocol's in an IP header.
func (t Transport) number() uint8 {
	if t == UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func transport(number uint8) Transport {
	if number == unix.IPPROTO_UDP {
		return UDP
	}
	return TCP
}
