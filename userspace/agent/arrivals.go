package agent

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Errors of a flow that arrives in an enclave and is not carried. The programs
// refuse such flows themselves: a policy has come since, or its names have changed.
var (
	errUnacquired = errors.New("the policy does not acquire it any more")
	errRefused    = errors.New("the policy refuses it")
	errNoOriginal = errors.New("the name goes direct and has no original address")
)

// lead is where a flow of the packet path is taken.
type lead struct {
	generation, rule uint32
	to               netip.AddrPort
	direct           bool // by the agent itself; else by an edge
}

// leadOf decides as the programs do, which acquire also what the agent alone can
// send direct: flows to a synthetic address that no edge carries.
func leadOf(m maps.Match, protocol maps.Transport, dst netip.AddrPort) (lead, error) {
	l := lead{generation: m.Generation, rule: m.Entry.Rule, to: dst}
	named := m.Name.Addr.IsValid()
	original := netip.AddrPortFrom(m.Name.Original, dst.Port())
	carried := protocol == maps.TCP || m.Datagrams != maps.DatagramsRefused
	switch action := m.Entry.Action; {
	case action == maps.ActionTunnel && carried:
		if m.ByOriginal {
			l.to = original
		}
		return l, nil
	case action == maps.ActionSynthetic, action == maps.ActionReject,
		action == maps.ActionTunnel && !(named && m.Entry.Hardening == maps.HardeningBypass):
		return lead{}, errRefused
	case !named:
		return lead{}, errUnacquired
	case !m.Name.Original.IsValid():
		return lead{}, errNoOriginal
	}
	l.to, l.direct = original, true
	return l, nil
}

// arrivals knows what is to be done with connections that arrive in an enclave. It
// implements listen.Arrivals.
type arrivals struct{ maps *maps.Maps }

// Record implements listen.Arrivals.
func (a arrivals) Record(source, origDst netip.AddrPort) (flow.Record, error) {
	rec := flow.Record{OrigDst: origDst, Source: source, Protocol: flow.TCP}
	m, err := a.maps.Match(maps.TCP, origDst)
	if err != nil {
		return rec, err
	}
	l, err := leadOf(m, maps.TCP, origDst)
	if err != nil {
		return rec, fmt.Errorf("take flow to %s: %w", origDst, err)
	}
	rec.Generation, rec.Rule = l.generation, l.rule
	if l.direct {
		rec.Direct = l.to
	} else {
		rec.OrigDst = l.to
	}
	err = a.complete(&rec)
	return rec, err
}

// complete adds whose flow it is. One of which no socket of the host is known comes
// from elsewhere.
func (a arrivals) complete(rec *flow.Record) error {
	protocol := maps.TCP
	if rec.Protocol == flow.UDP {
		protocol = maps.UDP
	}
	s, err := a.maps.Source(protocol, rec.Source)
	if errors.Is(err, maps.ErrNoRecord) {
		rec.Forwarded = true
		return nil
	}
	rec.PID, rec.UID, rec.SocketCookie = s.PID, s.UID, s.SocketCookie
	return err
}
