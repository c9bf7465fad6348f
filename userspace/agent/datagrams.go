package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/datagram"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// datagramDialer opens what carries the UDP flows of one enclave. It implements
// datagram.Dialer.
type datagramDialer struct {
	agent *Agent

	mu      sync.Mutex
	carried map[datagram.Key]*heldDatagrams
}

// datagramWay is where a flow is taken, to compare with what a later policy says.
type datagramWay struct {
	carrier *carrier       // nil for what goes direct
	to      netip.AddrPort // as in lead
}

// dials is how often a flow is dialed while policies change.
const dials = 4

var errUnsettled = errors.New("the policy changes too often")

func newDatagramDialer(a *Agent) *datagramDialer {
	return &datagramDialer{agent: a, carried: make(map[datagram.Key]*heldDatagrams)}
}

// lead says where datagrams to a destination are taken by the tables in force.
func (d *datagramDialer) lead(dst netip.AddrPort) (lead, error) {
	m, err := d.agent.datapath.Maps.Match(maps.UDP, dst)
	if err != nil {
		return lead{}, err
	}
	return leadOf(m, maps.UDP, dst)
}

// describe returns what is known of a flow before it is dialed.
func (d *datagramDialer) describe(key datagram.Key) flow.Record {
	rec := flow.Record{OrigDst: key.OrigDst, Source: key.Source, Protocol: flow.UDP}
	if l, err := d.lead(key.OrigDst); err == nil {
		rec.Generation, rec.Rule = l.generation, l.rule
		if l.direct {
			rec.Direct = l.to
		}
	}
	// Whose it is, is for people: it goes its way without that, too.
	if err := (arrivals{d.agent.datapath.Maps}).complete(&rec); err != nil {
		d.agent.log.Debug("find source of a flow", slog.Any("source", key.Source), slog.Any("error", err))
	}
	return rec
}

// Dial implements datagram.Dialer. A policy that came into force meanwhile has not
// judged the flow: it is dialed anew if that takes it elsewhere.
func (d *datagramDialer) Dial(ctx context.Context, rec flow.Record) (datagram.Datagrams, flow.Route, error) {
	for range dials {
		held, route, err := d.dial(ctx, rec)
		if err != nil {
			return nil, route, err
		}
		if d.keep(held.key) {
			return held, route, nil
		}
		// What it returns is of no use to anybody.
		_ = held.Close()
	}
	return nil, flow.Route{}, errUnsettled
}

// dial opens what carries a flow by the policy in force. That stays known for as long
// as the flow, and so does the name that its destination stands for.
func (d *datagramDialer) dial(ctx context.Context, rec flow.Record) (*heldDatagrams, flow.Route, error) {
	l, err := d.lead(rec.OrigDst)
	if err != nil {
		return nil, flow.Route{}, err
	}
	a := d.agent
	rec.Generation, rec.Rule = l.generation, l.rule
	name, release := a.names.hold(rec.OrigDst.Addr())
	held := &heldDatagrams{
		dialer: d, key: datagram.Key{Source: rec.Source, OrigDst: rec.OrigDst}, releases: []func(){release},
	}
	if name != "" {
		a.hostnames.Flow(name)
	}
	if e := a.epochs.hold(rec.Generation); e != nil {
		held.releases = append(held.releases, func() { a.epochs.release(e) })
	}
	route, err := held.open(ctx, rec, l)
	if err != nil {
		held.letGo()
		return nil, route, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.carried[held.key] = held
	return held, route, nil
}

// keep reports whether the policy in force takes a flow where it is taken already.
// One that is being dialed is judged when that is done.
func (d *datagramDialer) keep(key datagram.Key) bool {
	d.mu.Lock()
	was := d.carried[key]
	d.mu.Unlock()
	l, err := d.lead(key.OrigDst)
	if err != nil {
		return false
	}
	now := datagramWay{to: l.to}
	if !l.direct {
		way, _ := d.agent.epochs.route(l.generation, l.rule)
		now.carrier = way.carrier
	}
	return was == nil || was.way == now
}

// heldDatagrams keep the policy and the name of their flow known until Close.
type heldDatagrams struct {
	datagram.Datagrams
	dialer   *datagramDialer
	key      datagram.Key
	way      datagramWay
	releases []func()
	once     sync.Once
}

// open opens what carries the flow.
func (h *heldDatagrams) open(ctx context.Context, rec flow.Record, l lead) (route flow.Route, err error) {
	a := h.dialer.agent
	h.way.to = l.to
	if l.direct {
		route.Name, _ = a.names.Reverse(rec.OrigDst.Addr())
		conn, err := a.dialDirect(ctx, "udp", l.to)
		if err != nil {
			return route, err
		}
		h.Datagrams, err = newDirectDatagrams(conn.(*net.UDPConn))
		return route, err
	}
	rec.OrigDst = l.to
	to, route, authority, err := a.toward(rec)
	if err != nil {
		return route, err
	}
	h.way.carrier = to.carrier
	datagrams, edge, err := to.carrier.ConnectUDP(ctx, authority)
	route = answered(route, edge, err)
	switch {
	case errors.Is(err, tunnel.ErrNoDatagrams):
		return route, fmt.Errorf("%w: %w", datagram.ErrUncarried, err)
	case err != nil:
		return route, err
	}
	h.Datagrams = datagrams
	return route, nil
}

// Close implements datagram.Datagrams.
func (h *heldDatagrams) Close() error {
	err := h.Datagrams.Close()
	h.letGo()
	return err
}

// letGo forgets the flow, unless another one has its ends already.
func (h *heldDatagrams) letGo() {
	h.once.Do(func() {
		h.dialer.mu.Lock()
		if h.dialer.carried[h.key] == h {
			delete(h.dialer.carried, h.key)
		}
		h.dialer.mu.Unlock()
		for _, release := range h.releases {
			release()
		}
	})
}
