package maps

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
)

// Agent is what the programs know of the running agent.
type Agent struct {
	LeaseUntil   time.Duration // CLOCK_MONOTONIC
	NetnsCookie  uint64
	Port4, Port6 uint16 // of the listeners on 127.0.0.1 and ::1; 0 is none

	// DNSPort and DNSPort6 are as SetDNS has them: the first of DNSPorts UDP
	// sockets for queries to IPv4 and IPv6 servers; 0 leaves them alone.
	DNSPort, DNSPort6 uint16

	// Packets says that the packet path is in use: UDP, and TCP that no listener
	// can take, is left to it. Containers has it acquire forwarded packets, too.
	Packets, Containers bool

	// LearnFrom is as SetLearnFrom has it.
	LearnFrom time.Duration
}

// Monotonic reads CLOCK_MONOTONIC, the clock of bpf_ktime_get_ns: it stands
// still in suspend, so that waking up is not a lapse.
func Monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// SetAgent announces an agent: where its listeners are, and for how long it is
// to be believed. The lease is ended first and granted last, so that a program
// never sees the ports of one agent under the lease of another. The pools that
// SetDNS announced stay, also those of a predecessor.
func (m *Maps) SetAgent(a Agent) error {
	if err := m.EndLease(); err != nil {
		return err
	}
	raw, err := m.rawAgent()
	if err != nil {
		return err
	}
	raw.LeaseUntil, raw.NetnsCookie = 0, a.NetnsCookie
	raw.Port4, raw.Port6 = wirePort(a.Port4), wirePort(a.Port6)
	raw.Dns4, raw.Dns6 = a.DNSPort, a.DNSPort6
	raw.Packets, raw.Containers = bit(a.Packets), bit(a.Containers)
	raw.LearnFrom = uint64(a.LearnFrom)
	err = m.objects.BpfacqAgent.Put(uint32(0), &raw)
	if err != nil {
		return fmt.Errorf("write the agent record: %w", err)
	}
	return m.setLease(uint64(a.LeaseUntil))
}

// Renew extends the lease to d from now.
func (m *Maps) Renew(d time.Duration) error {
	now, err := Monotonic()
	if err != nil {
		return err
	}
	return m.setLease(uint64(now + d))
}

// EndLease ends the lease now: from here on each rule's hardening holds.
func (m *Maps) EndLease() error { return m.setLease(0) }

// setLease is one aligned 8-byte store into the shared memory of the map.
func (m *Maps) setLease(until uint64) error {
	_, err := m.agent.WriteAt(word64(until), int64(unsafe.Offsetof(bpf.SocketAgent{}.LeaseUntil)))
	if err != nil {
		return fmt.Errorf("write the lease: %w", err)
	}
	return nil
}

// Agent reads what the programs know of the agent.
func (m *Maps) Agent() (Agent, error) {
	raw, err := m.rawAgent()
	if err != nil {
		return Agent{}, err
	}
	return Agent{
		LeaseUntil:  time.Duration(raw.LeaseUntil),
		NetnsCookie: raw.NetnsCookie,
		Port4:       wirePort(raw.Port4),
		Port6:       wirePort(raw.Port6),
		DNSPort:     raw.Dns4,
		DNSPort6:    raw.Dns6,
		Packets:     raw.Packets != 0,
		Containers:  raw.Containers != 0,
		LearnFrom:   time.Duration(raw.LearnFrom),
	}, nil
}

func bit(set bool) uint8 {
	if set {
		return 1
	}
	return 0
}

func (m *Maps) rawAgent() (raw bpf.SocketAgent, err error) {
	if err := m.objects.BpfacqAgent.Lookup(uint32(0), &raw); err != nil {
		return raw, fmt.Errorf("read the agent record: %w", err)
	}
	return raw, nil
}
