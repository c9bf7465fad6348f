package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// DNSPorts is how many UDP sockets the agent listens on for queries, at
// consecutive ports: as many servers one socket of an application can tell apart.
const DNSPorts = len(bpf.SocketPeers{}.Peer)

// SetDNS announces where DNS queries go: to the UDP sockets at port4 and the
// following DNSPorts-1 ports for IPv4 servers, at port6 for IPv6 servers, and to
// the TCP listeners. 0 leaves the datagrams of that family alone, both 0 also the
// queries over TCP. Each socket must be stamped, listen on the wildcard address,
// and answer from the address to which the query came (IP_PKTINFO).
//
// The pools are where synthetic addresses lie, at most one of each family: UDP to
// any other address is left alone at the least cost. They are only that filter;
// which addresses are synthetic is for the entries of Tables. SetDNS may be called
// at any time.
func (m *Maps) SetDNS(port4, port6 uint16, pools []netip.Prefix) error {
	raw, err := rawPools(pools)
	if err != nil {
		return err
	}
	// Not the whole record: the lease may be renewed at the same time.
	ports := binary.NativeEndian.AppendUint16(nil, port4)
	ports = binary.NativeEndian.AppendUint16(ports, port6)
	if _, err := m.agent.WriteAt(ports, int64(unsafe.Offsetof(bpf.SocketAgent{}.Dns4))); err != nil {
		return fmt.Errorf("write ports for queries: %w", err)
	}
	image, err := binary.Append(nil, binary.NativeEndian, raw)
	if err == nil {
		_, err = m.agent.WriteAt(image, int64(unsafe.Offsetof(bpf.SocketAgent{}.Pools)))
	}
	if err != nil {
		return fmt.Errorf("write pools: %w", err)
	}
	return nil
}

// Pools are those that SetDNS announced last.
func (m *Maps) Pools() ([]netip.Prefix, error) {
	raw, err := m.rawAgent()
	if err != nil {
		return nil, err
	}
	return newPools(&raw), nil
}

// SetDevice tells the programs the addresses by which sockets that are bound to a
// device reach this host itself: v4 and v6 are addresses of that device, the
// zero Addr is none. Queries of sockets that are bound to any other device are left
// alone.
func (m *Maps) SetDevice(ifindex int, v4, v6 netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var device, old bpf.SocketDevice
	if v4.IsValid() {
		device.Addr4 = v4.As16()
	}
	if v6.IsValid() {
		device.Addr6 = v6.As16()
	}
	for _, own := range [][16]byte{device.Addr4, device.Addr6} {
		if own == ([16]byte{}) {
			continue
		}
		err := m.objects.BpfacqServer.Update(own, &bpf.SocketPeers{}, ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("make room for servers of device %d: %w", ifindex, err)
		}
	}
	if err := absentIsFine(m.objects.BpfacqDevice.Lookup(uint32(ifindex), &old)); err != nil {
		return fmt.Errorf("read device %d: %w", ifindex, err)
	}
	if err := m.objects.BpfacqDevice.Put(uint32(ifindex), &device); err != nil {
		return fmt.Errorf("write device %d: %w", ifindex, err)
	}
	return m.forgetServers(old)
}

// DeleteDevice forgets a device. One that is not there is fine.
func (m *Maps) DeleteDevice(ifindex int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var old bpf.SocketDevice
	err := m.objects.BpfacqDevice.Lookup(uint32(ifindex), &old)
	if err == nil {
		err = m.objects.BpfacqDevice.Delete(uint32(ifindex))
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete device %d: %w", ifindex, err)
	}
	return m.forgetServers(old)
}

// forgetServers frees what was kept for the addresses of a device, unless a device
// has them still.
func (m *Maps) forgetServers(old bpf.SocketDevice) error {
	unused := map[[16]byte]bool{old.Addr4: true, old.Addr6: true}
	delete(unused, [16]byte{})
	var ifindex uint32
	var device bpf.SocketDevice
	devices := m.objects.BpfacqDevice.Iterate()
	for devices.Next(&ifindex, &device) {
		delete(unused, device.Addr4)
		delete(unused, device.Addr6)
	}
	if err := devices.Err(); err != nil {
		return fmt.Errorf("walk devices: %w", err)
	}
	for own := range unused {
		if err := absentIsFine(m.objects.BpfacqServer.Delete(own)); err != nil {
			return fmt.Errorf("forget servers: %w", err)
		}
	}
	return nil
}

// Query says of the datagram that was last received, with its source address, on
// one of the agent's DNS sockets who sent it and to which server. Only one
// thread may receive on a socket, and it asks once for each datagram: while the
// programs take no queries they leave no word of those that are still queued, which
// must not be taken for others. The error is ErrNoRecord if no program took that
// datagram: it came to the socket on its own, and is to be dropped.
func (m *Maps) Query(fd int) (flow.Query, error) {
	var raw bpf.SocketQuery
	err := m.objects.BpfacqQuery.Lookup(int32(fd), &raw)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return flow.Query{}, ErrNoRecord
	}
	if err != nil {
		return flow.Query{}, fmt.Errorf("read query record of socket: %w", err)
	}
	if err := absentIsFine(m.objects.BpfacqQuery.Delete(int32(fd))); err != nil {
		return flow.Query{}, fmt.Errorf("delete query record of socket: %w", err)
	}
	return flow.Query{
		Server:   addrPort(raw.Server, raw.ServerPort),
		PID:      raw.Pid,
		UID:      raw.Uid,
		HasAsker: raw.HasAsker != 0,
		Device:   int(raw.Ifindex),
		Mark:     raw.Mark,
	}, nil
}
