package maps

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
)

// Dump is one map in the words of its users: named columns, one row an element.
type Dump struct {
	Map     string
	Columns []string

	// Rows yields values in the order of Columns. It ends at the first error.
	Rows iter.Seq2[[]any, error]
}

// Names lists the maps that Dump decodes, by the names of their pins.
func Names() []string {
	var objects bpf.SocketMaps
	var names []string
	for name := range byName(&objects) {
		names = append(names, PinName(name))
	}
	return slices.Sorted(slices.Values(names))
}

// Dump decodes one map by the name of its pin.
func (m *Maps) Dump(name string) (Dump, error) {
	objects := &m.objects
	storage := Dump{Columns: []string{"note"}, Rows: one("lives in the sockets themselves; the kernel cannot list it")}
	dumps := map[string]func() Dump{
		bpf.SocketMapBpfacqActive:   m.dumpActive,
		bpf.SocketMapBpfacqAgent:    m.dumpAgent,
		bpf.SocketMapBpfacqPrefix4:  func() Dump { return dumpPrefixes(m, objects.BpfacqPrefix4, prefix4) },
		bpf.SocketMapBpfacqPrefix6:  func() Dump { return dumpPrefixes(m, objects.BpfacqPrefix6, prefix6) },
		bpf.SocketMapBpfacqPorts:    m.dumpPorts,
		bpf.SocketMapBpfacqVerdict:  m.dumpVerdicts,
		bpf.SocketMapBpfacqEntry:    m.dumpEntries,
		bpf.SocketMapBpfacqChannel:  m.dumpChannels,
		bpf.SocketMapBpfacqName:     m.dumpNames,
		bpf.SocketMapBpfacqDevice:   m.dumpDevices,
		bpf.SocketMapBpfacqServer:   m.dumpServers,
		bpf.SocketMapBpfacqHandoff:  m.dumpHandoff,
		bpf.SocketMapBpfacqCounter:  m.dumpCounters,
		bpf.SocketMapBpfacqClient:   func() Dump { return storage },
		bpf.SocketMapBpfacqAccept:   func() Dump { return storage },
		bpf.SocketMapBpfacqExempt:   func() Dump { return storage },
		bpf.SocketMapBpfacqPeer:     func() Dump { return storage },
		bpf.SocketMapBpfacqQuery:    func() Dump { return storage },
		bpf.SocketMapBpfacqTag:      func() Dump { return storage },
		bpf.SocketMapBpfacqUplink:   m.dumpUplinks,
		bpf.SocketMapBpfacqPair:     m.dumpPairs,
		bpf.SocketMapBpfacqOpening:  m.dumpOpenings,
		bpf.SocketMapBpfacqSource:   m.dumpSources,
		bpf.SocketMapBpfacqFragment: m.dumpFragments,
		bpf.SocketMapBpfacqRecent:   m.dumpRecent,
	}
	make, ok := dumps[prefix+name]
	if !ok {
		return Dump{}, fmt.Errorf("unknown map %q: want one of %v", name, slices.Sorted(maps.Keys(dumps)))
	}
	d := make()
	d.Map = name
	return d, nil
}

// one yields a single row.
func one(row ...any) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) { yield(row, nil) }
}

func (m *Maps) dumpActive() Dump {
	generation, err := m.Generation()
	return Dump{
		Columns: []string{"generation", "slot"},
		Rows: func(yield func([]any, error) bool) {
			yield([]any{generation, generation % slots}, err)
		},
	}
}

func (m *Maps) dumpAgent() Dump {
	return Dump{
		Columns: []string{"listener4", "listener6", "dns4", "dns6", "pools", "netns_cookie", "lease_left", "packets", "containers", "learning_in"},
		Rows: func(yield func([]any, error) bool) {
			a, err := m.Agent()
			pools, poolsErr := m.Pools()
			now, clockErr := Monotonic()
			left := max(a.LeaseUntil-now, 0).Round(time.Millisecond)
			row := []any{a.Port4, a.Port6, a.DNSPort, a.DNSPort6, texts(pools), a.NetnsCookie, left.String(),
				a.Packets, a.Containers, max(a.LearnFrom-now, 0).Round(time.Millisecond).String()}
			yield(row, errors.Join(err, poolsErr, clockErr))
		},
	}
}

// policyRows runs each over the policy in force; without one there are no rows.
func (m *Maps) policyRows(each func(v *View, yield func([]any, error) bool)) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		v, err := m.View()
		if errors.Is(err, ErrNoPolicy) {
			return
		}
		if err != nil {
			yield(nil, err)
			return
		}
		defer v.Close()
		each(v, yield)
	}
}

func dumpPrefixes[K any](m *Maps, outer *ebpf.Map, decode func(K) netip.Prefix) Dump {
	return Dump{
		Columns: []string{"prefix", "set"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			trie, err := inner(outer, v.Generation)
			if err != nil {
				yield(nil, err)
				return
			}
			defer trie.Close()
			width := v.width() // reads every port: once is enough
			var key K
			var row uint32
			elements := trie.Iterate()
			for elements.Next(&key, &row) {
				if !yield([]any{decode(key).String(), row / width}, nil) {
					return
				}
			}
			if err := elements.Err(); err != nil {
				yield(nil, fmt.Errorf("walk prefixes: %w", err))
			}
		}),
	}
}

// width is the number of port classes, the length of a row of the verdict table.
func (v *View) width() uint32 {
	return uint32(max(slices.Max(v.ports.Tcp[:]), slices.Max(v.ports.Udp[:]))) + 1
}

// portRun is a range of ports of one class.
type portRun struct {
	proto       string
	first, last int
	class       uint16
}

func (r portRun) ports() string {
	if r.first == r.last {
		return fmt.Sprint(r.first)
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

func (v *View) portRuns() []portRun {
	var runs []portRun
	for _, table := range []struct {
		proto   string
		classes *[65536]uint16
	}{{"tcp", &v.ports.Tcp}, {"udp", &v.ports.Udp}} {
		first := 0
		for port := 1; port <= len(table.classes); port++ {
			if port < len(table.classes) && table.classes[port] == table.classes[first] {
				continue
			}
			runs = append(runs, portRun{table.proto, first, port - 1, table.classes[first]})
			first = port
		}
	}
	return runs
}

func (m *Maps) dumpPorts() Dump {
	return Dump{
		Columns: []string{"protocol", "ports", "class"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			for _, run := range v.portRuns() {
				if !yield([]any{run.proto, run.ports(), run.class}, nil) {
					return
				}
			}
		}),
	}
}

// dumpVerdicts lists the cells that name an entry, with the ports of their class.
func (m *Maps) dumpVerdicts() Dump {
	return Dump{
		Columns: []string{"set", "class", "ports", "entry", "rule"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			ports := make(map[uint32]string)
			for _, run := range v.portRuns() {
				class := uint32(run.class)
				if ports[class] != "" {
					ports[class] += ","
				}
				ports[class] += run.proto + ":" + run.ports()
			}
			width := v.width()
			var index, cell uint32
			elements := v.inners[innerVerdict].Iterate()
			for elements.Next(&index, &cell) {
				if cell == 0 {
					continue
				}
				entry, err := v.Entry(cell - 1)
				class := index % width
				if !yield([]any{index / width, class, ports[class], cell - 1, entry.ID}, err) || err != nil {
					return
				}
			}
			if err := elements.Err(); err != nil {
				yield(nil, fmt.Errorf("walk verdicts: %w", err))
			}
		}),
	}
}

func (m *Maps) dumpEntries() Dump {
	return Dump{
		Columns: []string{"entry", "id", "order", "action", "hardening", "channel"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			for index := range v.inners[innerEntry].MaxEntries() {
				entry, err := v.Entry(index)
				channel := ""
				if err == nil && entry.Action != ActionProtect && entry.Action != ActionSynthetic {
					var c Channel
					c, err = lookupChannel(v.inners[innerChannel], entry.Channel)
					channel = c.ID
				}
				row := []any{index, entry.ID, entry.Order, entry.Action.String(), entry.Hardening.String(), channel}
				if !yield(row, err) || err != nil {
					return
				}
			}
		}),
	}
}

func (m *Maps) dumpChannels() Dump {
	return Dump{
		Columns: []string{"channel", "id", "name", "state", "datagrams"},
		Rows: m.policyRows(func(v *View, yield func([]any, error) bool) {
			for index := range v.inners[innerChannel].MaxEntries() {
				c, err := lookupChannel(v.inners[innerChannel], index)
				if !yield([]any{index, c.ID, c.Name, c.State.String(), c.Datagrams.String()}, err) || err != nil {
					return
				}
			}
		}),
	}
}

func (m *Maps) dumpCounters() Dump {
	return Dump{
		Columns: []string{"counter", "value"},
		Rows: func(yield func([]any, error) bool) {
			sums, err := m.Counters()
			if err != nil {
				yield(nil, err)
				return
			}
			for c := range AllCounters() {
				if !yield([]any{c.String(), sums[c]}, nil) {
					return
				}
			}
		},
	}
}
