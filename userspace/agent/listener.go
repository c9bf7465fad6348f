package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/listen"
)

// listen opens the listeners, or takes the address of another relay's, and
// returns what the programs have to know.
func (a *Agent) listen(ctx context.Context) (maps.Agent, error) {
	netns, err := a.datapath.NetnsCookie()
	if err != nil {
		return maps.Agent{}, fmt.Errorf("identify network namespace: %w", err)
	}
	self, err := a.datapath.Maps.Agent() // whose DNS ports are the predecessor's
	if err != nil {
		return maps.Agent{}, err
	}
	self.NetnsCookie, self.Port4, self.Port6 = netns, 0, 0
	if external := a.config.Load().Relay.ExternalListener; external != "" {
		addr, err := netip.ParseAddrPort(external)
		if err != nil {
			return maps.Agent{}, fmt.Errorf("read relay.external-listener: %w", err)
		}
		self.Port4 = addr.Port() // the configuration admits 127.0.0.1 alone
		return self, nil
	}

	// A predecessor that was killed took its listener with it. Until this agent
	// is announced each rule's hardening holds, whatever lease is left.
	if err := a.datapath.Maps.EndLease(); err != nil {
		return maps.Agent{}, err
	}
	a.listener, err = listen.Listen(ctx, listen.Options{Origin: origin{a.datapath.Maps}, Log: a.log})
	if err != nil {
		return maps.Agent{}, err
	}
	v4, v6 := a.listener.AddrPorts()
	self.Port4, self.Port6 = v4.Port(), v6.Port()
	return self, nil
}

func (a *Agent) closeListener() error {
	if a.listener == nil {
		return nil
	}
	return a.listener.Close()
}

// origin reads flow records from the kernel by file descriptor.
type origin struct{ maps *maps.Maps }

// Lookup implements listen.Origin.
func (o origin) Lookup(fd int) (flow.Record, error) {
	return o.maps.Accepted(fd)
}

// carry carries one accepted flow. The flow outlives the agent's own context:
// at a stop it is drained. Its policy stays known for as long, and so does the name
// that its destination stands for. Queries are not flows.
func (a *Agent) carry(conn *net.TCPConn, rec flow.Record) {
	if rec.Kind == flow.KindQuery {
		a.queries.carry(conn, rec)
		return
	}
	a.carryFlow(context.Background(), conn, rec)
}

// carryFlow is carry for what is a flow. It ends when ctx is done.
func (a *Agent) carryFlow(ctx context.Context, conn *net.TCPConn, rec flow.Record) {
	name, release := a.names.hold(rec.OrigDst.Addr())
	defer release()
	if name != "" {
		a.hostnames.Flow(name)
	}
	if e := a.epochs.hold(rec.Generation); e != nil {
		defer a.epochs.release(e)
	}
	a.relay.Carry(ctx, conn, rec)
}
