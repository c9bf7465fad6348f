package maps

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

func newRecord(raw *bpf.SocketRecord) flow.Record {
	return flow.Record{
		OrigDst:      addrPort(raw.OrigAddr, raw.OrigPort),
		Rule:         raw.Rule,
		Generation:   raw.Generation,
		PID:          raw.Pid,
		UID:          raw.Uid,
		SocketCookie: raw.Cookie,
		NetnsCookie:  raw.NetnsCookie,
		Mark:         raw.Mark,
		Since:        time.Duration(raw.Since),
		Kind:         flow.Kind(raw.Kind),
	}
}

// Accepted reads the record of an accepted socket by its file descriptor. The
// error is ErrNoRecord if the socket reached the listener on its own.
func (m *Maps) Accepted(fd int) (flow.Record, error) { return lookupRecord(m.objects.BpfacqAccept, fd) }

// Client reads the record of an application's socket by its file descriptor.
func (m *Maps) Client(fd int) (flow.Record, error) { return lookupRecord(m.objects.BpfacqClient, fd) }

func lookupRecord(storage *ebpf.Map, fd int) (flow.Record, error) {
	var raw bpf.SocketRecord
	err := storage.Lookup(int32(fd), &raw)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return flow.Record{}, ErrNoRecord
	}
	if err != nil {
		return flow.Record{}, fmt.Errorf("read flow record of socket: %w", err)
	}
	return newRecord(&raw), nil
}

// Stamp exempts the socket behind fd from acquisition, until it is closed. Do it
// before the socket connects.
func (m *Maps) Stamp(fd int) error {
	if err := m.objects.BpfacqExempt.Put(int32(fd), &bpf.SocketStamp{}); err != nil {
		return fmt.Errorf("stamp socket: %w", err)
	}
	return nil
}

// StampedNetns reads the cookie of the network namespace that the connect hook
// left on a stamped socket, 0 if no hook has seen it connect.
func (m *Maps) StampedNetns(fd int) (uint64, error) {
	var stamp bpf.SocketStamp
	if err := m.objects.BpfacqExempt.Lookup(int32(fd), &stamp); err != nil {
		return 0, fmt.Errorf("read stamp of socket: %w", err)
	}
	return stamp.NetnsCookie, nil
}

// Handshakes reports whether a record is on its way to the listener.
func (m *Maps) Handshakes() (bool, error) {
	var first bpf.SocketHandoffKey
	err := m.objects.BpfacqHandoff.NextKey(nil, &first)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the handoff: %w", err)
	}
	return true, nil
}
