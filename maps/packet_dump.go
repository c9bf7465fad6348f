package maps

import (
	"fmt"

	"github.com/bpfacq/bpfacq/bpf"
)

func (m *Maps) dumpUplinks() Dump {
	columns := []string{"uplink", "mac", "pair", "pair_mac", "l3"}
	return dumpHash("uplinks", m.objects.BpfacqUplink, columns, func(index *uint32, raw *bpf.SocketUplink) [][]any {
		u := newUplink(*index, raw)
		return [][]any{{u.Index, u.MAC.String(), u.Pair, u.PairMAC.String(), u.L3}}
	})
}

func (m *Maps) dumpPairs() Dump {
	columns := []string{"pair", "uplink"}
	return dumpHash("pairs", m.objects.BpfacqPair, columns, func(pair, uplink *uint32) [][]any {
		return [][]any{{*pair, *uplink}}
	})
}

func (m *Maps) dumpOpenings() Dump {
	columns := []string{"protocol", "local", "remote", "opener", "seen"}
	return dumpHash("openings", m.objects.BpfacqOpening, columns, func(key *bpf.SocketFlowKey, raw *bpf.SocketOpening) [][]any {
		ends := newEnds(key)
		row := []any{ends.Protocol.String(), ends.Local.String(), ends.Remote.String(), Opener(raw.Opener).String(), raw.Seen}
		return [][]any{row}
	})
}

func (m *Maps) dumpSources() Dump {
	columns := []string{"protocol", "source", "pid", "uid", "cookie"}
	return dumpHash("sources", m.objects.BpfacqSource, columns, func(key *bpf.SocketSourceKey, raw *bpf.SocketSource) [][]any {
		from := addrPort(key.Addr, key.Port)
		return [][]any{{transport(key.Protocol).String(), from.String(), raw.Pid, raw.Uid, raw.Cookie}}
	})
}

func (m *Maps) dumpFragments() Dump {
	columns := []string{"protocol", "local", "remote", "id", "way"}
	return dumpHash("fragments", m.objects.BpfacqFragment, columns, func(key *bpf.SocketFragmentKey, raw *bpf.SocketFragment) [][]any {
		local, remote := optionalAddr(key.LocalAddr), optionalAddr(key.RemoteAddr)
		row := []any{transport(key.Protocol).String(), addrText(local), addrText(remote), key.Id, Counter(raw.Way).String()}
		return [][]any{row}
	})
}

// dumpRecent says how many destinations each processor has at hand: which ones
// changes with every packet.
func (m *Maps) dumpRecent() Dump {
	return Dump{
		Columns: []string{"processor", "destinations"},
		Rows: func(yield func([]any, error) bool) {
			var used []int
			var index uint32
			var perCPU []bpf.SocketRecent
			elements := m.objects.BpfacqRecent.Iterate()
			for elements.Next(&index, &perCPU) {
				used = append(used, make([]int, max(len(perCPU)-len(used), 0))...)
				for cpu := range perCPU {
					used[cpu] += int(min(perCPU[cpu].Judgement.Generation, 1))
				}
			}
			if err := elements.Err(); err != nil {
				yield(nil, fmt.Errorf("walk recent destinations: %w", err))
				return
			}
			for cpu, n := range used {
				if !yield([]any{cpu, n}, nil) {
					return
				}
			}
		},
	}
}
