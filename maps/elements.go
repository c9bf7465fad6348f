package maps

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
)

// dumpHash lists a hash of any kind; rows makes the rows of one element.
func dumpHash[K, V any](noun string, table *ebpf.Map, columns []string, rows func(*K, *V) [][]any) Dump {
	return Dump{
		Columns: columns,
		Rows:    func(yield func([]any, error) bool) { walk(noun, table, rows, yield) },
	}
}

func walk[K, V any](noun string, table *ebpf.Map, rows func(*K, *V) [][]any, yield func([]any, error) bool) {
	var key K
	var value V
	elements := table.Iterate()
	for elements.Next(&key, &value) {
		for _, row := range rows(&key, &value) {
			if !yield(row, nil) {
				return
			}
		}
	}
	if err := elements.Err(); err != nil {
		yield(nil, fmt.Errorf("walk %s: %w", noun, err))
	}
}

func (m *Maps) dumpHandoff() Dump {
	columns := []string{"client", "listener_port", "orig_dst", "rule", "generation", "pid", "uid"}
	return dumpHash("the handoff", m.objects.BpfacqHandoff, columns, func(key *bpf.SocketHandoffKey, raw *bpf.SocketRecord) [][]any {
		r := newRecord(raw)
		client := addrPort(key.Client, key.ClientPort).String()
		return [][]any{{client, wirePort(key.ListenerPort), r.OrigDst.String(), r.Rule, r.Generation, r.PID, r.UID}}
	})
}

// dumpNames lists what each synthetic address stands for; the names themselves
// are the agent's.
func (m *Maps) dumpNames() Dump {
	return Dump{
		Columns: []string{"address", "original", "set"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			width := v.width()
			walk("names", v.inners[innerName], func(key *bpf.SocketNameKey, raw *bpf.SocketName) [][]any {
				n := newName(*key, raw)
				return [][]any{{n.Addr.String(), addrText(n.Original), n.Row / width}}
			}, yield)
		}),
	}
}

func (m *Maps) dumpDevices() Dump {
	columns := []string{"device", "address4", "address6"}
	return dumpHash("devices", m.objects.BpfacqDevice, columns, func(index *uint32, raw *bpf.SocketDevice) [][]any {
		return [][]any{{*index, addrText(optionalAddr(raw.Addr4)), addrText(optionalAddr(raw.Addr6))}}
	})
}

// dumpServers lists the servers that device-bound sockets asked, by the device's
// own address to which the queries go.
func (m *Maps) dumpServers() Dump {
	columns := []string{"address", "place", "server", "device"}
	return dumpHash("servers", m.objects.BpfacqServer, columns, func(own *[16]byte, raw *bpf.SocketPeers) (rows [][]any) {
		for place, p := range raw.Peer {
			if p.Until != 0 {
				server := addrPort(p.ToldAddr, p.ToldPort).String()
				rows = append(rows, []any{addrText(optionalAddr(*own)), place, server, p.Ifindex})
			}
		}
		return rows
	})
}

// optionalAddr reads an address of the datapath; zeros are none.
func optionalAddr(raw [16]byte) netip.Addr {
	if raw == ([16]byte{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(raw).Unmap()
}

// addrText is empty for no address.
func addrText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

func texts(prefixes []netip.Prefix) string {
	var all []string
	for _, p := range prefixes {
		all = append(all, p.String())
	}
	return strings.Join(all, " ")
}
