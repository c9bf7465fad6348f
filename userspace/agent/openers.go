package agent

import (
	"log/slog"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/container"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// maxOpeners is how many flows are told to the programs at most, half of what
// their table holds.
const maxOpeners = 1 << 14

// tellOpeners tells the programs which flows that live were opened by the other
// side and would be acquired by a policy that is about to come into force. Else
// their answers would be: TCP of a server behind the host would be reset. It knows
// what connection tracking knows; others go by what the programs see.
func (a *Agent) tellOpeners(compiled *policy.Compiled) {
	if a.packets == nil {
		return
	}
	live, err := container.ListTracked("/proc")
	told := 0
	for _, t := range live {
		if told == maxOpeners {
			break
		}
		protocol := maps.TCP
		question := policy.Flow{Protocol: policy.TCP, Addr: t.From.Addr(), Port: t.From.Port()}
		if t.Protocol == flow.UDP {
			protocol, question.Protocol = maps.UDP, policy.UDP
		}
		if d := compiled.Lookup(question); d.Verdict == policy.VerdictPass {
			continue
		}
		ends := maps.Ends{Protocol: protocol, Local: t.To, Remote: t.From}
		opener, lookErr := a.datapath.Maps.Opener(ends)
		if lookErr == nil && opener == maps.OpenerNone {
			lookErr = a.datapath.Maps.SetOpener(ends, maps.OpenerThere)
		}
		if lookErr != nil {
			err = lookErr
			break
		}
		told++
	}
	if err != nil {
		a.log.Warn("find out who opened live flows", slog.Any("error", err))
	}
}
