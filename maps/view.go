package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
)

// Transport is the protocol of a look-up.
type Transport uint8

// The transports that the port table knows.
const (
	TCP Transport = iota
	UDP
)

// String returns the transport's name.
func (t Transport) String() string {
	if t == UDP {
		return "udp"
	}
	return "tcp"
}

// View reads the policy of one generation as the programs read it.
type View struct {
	Generation uint32
	inners     []*ebpf.Map
	ports      *bpf.SocketPortClasses
}

// View opens the policy in force. The error is ErrNoPolicy if there is none.
func (m *Maps) View() (_ *View, err error) {
	generation, err := m.Generation()
	if err != nil {
		return nil, err
	}
	v := &View{Generation: generation, ports: new(bpf.SocketPortClasses)}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()

	for _, outer := range m.outers() {
		opened, err := inner(outer, generation)
		if err != nil {
			return nil, err
		}
		v.inners = append(v.inners, opened)
	}
	if err := v.inners[innerPorts].Lookup(uint32(0), v.ports); err != nil {
		return nil, fmt.Errorf("read port classes: %w", err)
	}
	return v, nil
}

// Close releases the view.
func (v *View) Close() error {
	var errs []error
	for _, m := range v.inners {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Lookup finds the entry that wins for a flow, and false if none does. The port
// is in host byte order.
func (v *View) Lookup(proto Transport, addr netip.Addr, port uint16) (Entry, bool, error) {
	row, err := v.row(addr.Unmap().WithZone(""))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("look up %s: %w", addr, err)
	}
	return v.cell(row, proto, port)
}

// cell finds the entry that wins for a port in a row.
func (v *View) cell(row uint32, proto Transport, port uint16) (Entry, bool, error) {
	class := v.ports.Tcp[port]
	if proto == UDP {
		class = v.ports.Udp[port]
	}
	var cell uint32
	if err := v.inners[innerVerdict].Lookup(row+uint32(class), &cell); err != nil {
		return Entry{}, false, fmt.Errorf("read verdict %d of class %d: %w", row, class, err)
	}
	if cell == 0 {
		return Entry{}, false, nil
	}
	entry, err := v.Entry(cell - 1)
	return entry, err == nil, err
}

func (v *View) row(addr netip.Addr) (row uint32, err error) {
	whole := netip.PrefixFrom(addr, addr.BitLen())
	if addr.Is4() {
		err = v.inners[innerPrefix4].Lookup(key4(whole), &row)
	} else {
		err = v.inners[innerPrefix6].Lookup(key6(whole), &row)
	}
	return row, err
}

// Entry reads one entry by its index.
func (v *View) Entry(index uint32) (Entry, error) {
	var raw bpf.SocketEntry
	if err := v.inners[innerEntry].Lookup(index, &raw); err != nil {
		return Entry{}, fmt.Errorf("read entry %d: %w", index, err)
	}
	return newEntry(&raw), nil
}

func lookupChannel(channels *ebpf.Map, index uint32) (Channel, error) {
	var raw bpf.SocketChannel
	if err := channels.Lookup(index, &raw); err != nil {
		return Channel{}, fmt.Errorf("read channel %d: %w", index, err)
	}
	return newChannel(&raw), nil
}
