package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/datagram"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/listen"
	"github.com/bpfacq/bpfacq/userspace/uplink"
)

// outlet is an uplink from which packets are acquired, with the enclave where they
// arrive and what receives them there.
type outlet struct {
	agent     *Agent
	uplink    uplink.Uplink
	enclave   *enclave.Enclave
	listener  *listen.Listener
	datagrams *datagram.Relay
	dialer    *datagramDialer
	sockets   io.Closer // what hands the enclave's packets to the two

	ctx     context.Context // of the flows
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

// settleTimeout is how long peers in an enclave may take to acknowledge the end of
// their flows.
const settleTimeout = 2 * time.Second

// openOutlet acquires the packets of an uplink. No packet is sent to the enclave
// before all that carries it is in place. On an error the hardening of each rule
// holds, if that can be.
func (a *Agent) openOutlet(ctx context.Context, u uplink.Uplink) (_ *outlet, err error) {
	o := &outlet{agent: a, uplink: u, dialer: newDatagramDialer(a)}
	o.ctx, o.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, o.release(), a.datapath.AttachUplink(u.Index), a.abandon(u))
		}
	}()
	if o.enclave, err = enclave.Open(enclave.Options{MTU: u.MTU, MAC: u.MAC}); err != nil {
		return nil, err
	}
	if err := o.receive(ctx); err != nil {
		return nil, err
	}
	if err := a.datapath.AttachPair(o.enclave.Device()); err != nil {
		return nil, err
	}
	if err := a.datapath.AttachUplink(u.Index); err != nil {
		return nil, err
	}
	return o, o.announce()
}

// receive opens what receives the packets in the enclave, and has them handed to
// it.
func (o *outlet) receive(ctx context.Context) (err error) {
	a, inside := o.agent, o.enclave.Namespace()
	o.listener, err = listen.ListenTransparent(ctx, listen.TransparentOptions{
		Namespace: inside, Arrivals: arrivals{a.datapath.Maps}, Log: a.log,
	})
	if err != nil {
		return err
	}
	packet := &a.config.Load().Packet
	o.datagrams, err = datagram.Open(datagram.Options{
		Namespace: inside,
		Dialer:    o.dialer,
		Flows:     a.flows,
		Describe:  o.dialer.describe,
		Log:       a.log,
		Limits: datagram.Limits{
			Flows: packet.UDPFlows, Idle: time.Duration(packet.UDPIdle), StreamIdle: time.Duration(packet.UDPStreamIdle),
		},
	})
	if err != nil {
		return err
	}
	to := loader.Sockets{}
	to.UDP4, to.UDP6 = o.datagrams.Sockets()
	err = o.listener.Control(func(v4, v6 int) (err error) {
		to.TCP4, to.TCP6 = v4, v6
		o.sockets, err = a.datapath.AttachEnclave(inside.Fd(), to)
		return err
	})
	if err != nil {
		return err
	}
	o.serving.Go(func() { o.listener.Serve(o.ctx, o.carry) })
	log := a.log.With(slog.String("uplink", o.uplink.Name)) // follow changes o.uplink
	o.serving.Go(func() {
		if err := o.datagrams.Serve(o.ctx); err != nil && o.ctx.Err() == nil {
			log.Error("relay datagrams", slog.Any("error", err))
		}
	})
	return nil
}

// carry carries one connection, until the uplink is given up at the latest.
func (o *outlet) carry(conn *net.TCPConn, rec flow.Record) { o.agent.carryFlow(o.ctx, conn, rec) }

// announce tells the programs where packets of the uplink go.
func (o *outlet) announce() error {
	u := o.uplink
	return o.agent.datapath.Maps.SetUplink(maps.Uplink{
		Index: u.Index, MAC: u.MAC, L3: u.L3, Pair: o.enclave.Device(), PairMAC: o.enclave.PeerMAC(),
	})
}

// follow does what a change of the uplink needs.
func (o *outlet) follow(u uplink.Uplink) error {
	was := o.uplink
	o.uplink = u
	if u.MTU != was.MTU {
		if err := o.enclave.SetMTU(u.MTU); err != nil {
			return err
		}
	}
	if u.MAC.String() != was.MAC.String() {
		return o.announce()
	}
	return nil
}

// close gives the uplink up. Flows are reset, and hear of it; packets that still
// come pass.
func (o *outlet) close() error {
	d := o.agent.datapath
	return errors.Join(o.shut(), d.DetachUplink(o.uplink.Index), d.Maps.DeleteUplink(o.uplink.Index))
}

// shut removes all but the programs of the uplink, so that from here on packets go
// by the hardening of each rule.
func (o *outlet) shut() error {
	err := o.hush()
	limit, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	return errors.Join(err, o.enclave.Settle(limit), o.agent.abandon(o.uplink), o.release())
}

// abandon has the hardening of each rule hold for the packets of an uplink.
func (a *Agent) abandon(u uplink.Uplink) error {
	return a.datapath.Maps.SetUplink(maps.Uplink{Index: u.Index, MAC: u.MAC, L3: u.L3})
}

// hush ends the flows, while their resets still get to where they belong.
func (o *outlet) hush() error {
	o.cancel()
	var err error
	if o.listener != nil {
		err = o.listener.Close()
	}
	if o.datagrams != nil {
		err = errors.Join(err, o.datagrams.Close())
	}
	o.serving.Wait()
	return err
}

// release removes the enclave and what receives packets there.
func (o *outlet) release() error {
	err := o.hush()
	if o.sockets != nil {
		err = errors.Join(err, o.sockets.Close())
	}
	if o.enclave != nil {
		err = errors.Join(err, o.enclave.Close())
	}
	return err
}
