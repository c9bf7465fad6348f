package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/device"
	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Times of ending the DNS server: how long queries that wait for an upstream are
// still answered, and how often that is looked at.
const (
	lastAnswers  = time.Second
	lastInterval = 20 * time.Millisecond
)

// queries is the DNS server of the agent. It is there from the first policy that
// has a use for it to the end of the agent, for an application may keep a socket
// that is connected to it for long.
type queries struct {
	listen    func(ctx context.Context, first uint16) (*dns.Server, error)
	first     uint16 // port of the predecessor
	loopback6 bool   // the host has ::1, by which queries to IPv6 servers come
	devices   device.Table
	log       *slog.Logger

	server  atomic.Pointer[dns.Server]
	trouble atomic.Pointer[error] // why queries are not taken, although the policy wants them
	ctx     context.Context       // ends with stop
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

// newQueries returns the queries of an agent, none of which is taken yet.
func (a *Agent) newQueries(ctx context.Context, self maps.Agent) *queries {
	q := &queries{listen: a.listenForQueries, first: self.DNSPort, loopback6: self.Port6 != 0, devices: a.datapath.Maps, log: a.log}
	// It outlives the agent's context: the last queries are answered at a stop.
	q.ctx, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return q
}

// start starts the server, unless it is there. The caller holds Agent.apply.
func (q *queries) start() error {
	if q.server.Load() != nil || q.ctx.Err() != nil {
		return q.ctx.Err()
	}
	server, err := q.listen(q.ctx, q.first)
	if err != nil {
		return fmt.Errorf("listen for queries: %w", err)
	}
	q.serving.Go(func() { server.Serve(q.ctx) })
	q.server.Store(server)
	if err := q.followDevices(); err != nil {
		q.log.Warn("queries of sockets that are bound to a device are left alone", slog.Any("error", err))
	}
	return nil
}

// followDevices lets the programs take the queries of device-bound sockets.
func (q *queries) followDevices() error {
	watcher, err := device.Open(q.devices, q.log)
	if err != nil {
		return err
	}
	q.serving.Go(func() {
		err := errors.Join(watcher.Run(q.ctx), watcher.Close())
		if err != nil {
			q.log.Error("follow devices", slog.Any("error", err))
		}
	})
	return nil
}

// ports are the first ones of the server by family; 0 is none.
func (q *queries) ports() (v4, v6 uint16) {
	if server := q.server.Load(); server != nil {
		v4, v6 = server.Port()
	}
	if !q.loopback6 {
		v6 = 0
	}
	return v4, v6
}

// flush has the server forget what an earlier policy or channel led to.
func (q *queries) flush() {
	if server := q.server.Load(); server != nil {
		server.Flush()
	}
}

// carry answers the queries of an accepted connection.
func (q *queries) carry(conn *net.TCPConn, rec flow.Record) {
	server := q.server.Load()
	if server == nil {
		conn.SetLinger(0) // a reset, so that the application asks anew
		conn.Close()
		return
	}
	server.ServeTCP(q.ctx, conn, rec.Query())
}

// drain waits until what was asked is answered, or for not much longer than
// healthy servers need. The programs must have stopped sending queries.
func (q *queries) drain() {
	server := q.server.Load()
	if server == nil {
		return
	}
	end := time.After(lastAnswers)
	look := time.NewTicker(lastInterval)
	defer look.Stop()
	for server.Status().Pending > 0 {
		select {
		case <-end:
			return
		case <-look.C:
		}
	}
}

// stop ends the server and waits for it.
func (q *queries) stop() {
	q.cancel()
	q.serving.Wait()
}

// listenForQueries opens the DNS server, on the predecessor's ports if they are
// free: a socket that an application has connected to it goes on with this one.
func (a *Agent) listenForQueries(ctx context.Context, first uint16) (*dns.Server, error) {
	reach := &upstream{names: a.names, exempt: a.datapath.Exempt}
	return dns.Listen(ctx, dns.Options{
		Origin:    a.datapath.Maps,
		Names:     a.names,
		Upstream:  reach,
		Private:   reach,
		Observer:  observer{a.hostnames},
		Control:   a.datapath.Exempt,
		FirstPort: first,
		Log:       a.log,
	})
}

// takeQueries tells the programs whether to bring queries here, which they do while
// the lease lasts: from when the server serves, and the names are in force. The
// caller holds a.apply. Without it flows are carried as well, so an error is for
// status and log.
func (a *Agent) takeQueries() {
	g := a.names.current.Load()
	var v4, v6 uint16
	var err error
	if g.queried {
		err = a.queries.start()
		v4, v6 = a.queries.ports()
		a.queries.flush()
	}
	if err = errors.Join(err, a.datapath.Maps.SetDNS(v4, v6, g.policy.Pools)); err != nil {
		a.log.Error("take queries", slog.Any("error", err))
	}
	a.queries.trouble.Store(&err)
}

// announce tells the programs of this agent. From then on it acquires.
func (a *Agent) announce(self maps.Agent) error {
	a.apply.Lock()
	defer a.apply.Unlock()
	self.DNSPort, self.DNSPort6 = 0, 0
	if a.names.current.Load().queried {
		self.DNSPort, self.DNSPort6 = a.queries.ports()
	}
	if err := a.datapath.Maps.SetAgent(self); err != nil {
		return err
	}
	a.takeQueries()
	return nil
}

// dismissQueries has the programs leave queries alone, and answers those that are
// here.
func (a *Agent) dismissQueries() error {
	err := a.datapath.Maps.SetDNS(0, 0, a.names.current.Load().policy.Pools)
	a.queries.drain()
	return err
}

// restoreInterval is how often it is tried again to take queries and to open a
// pool, if that did not succeed.
const restoreInterval = 30 * time.Second

// restoreNames stores the policy again where there is no room for more names, or
// something that names need was not to be had.
func (a *Agent) restoreNames(ctx context.Context) error {
	retry := time.NewTicker(restoreInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.names.full:
		case <-retry.C:
			if !a.lacking() {
				continue
			}
		}
		if err := a.again(); err != nil {
			a.log.Error("restore names", slog.Any("error", err))
		}
	}
}

// lacking reports whether something is missing that the policy wants.
func (a *Agent) lacking() bool {
	g := a.names.current.Load()
	trouble := a.queries.trouble.Load()
	return trouble != nil && *trouble != nil || g.poolErr != nil
}

// again puts the policy that is in force in force anew.
func (a *Agent) again() error {
	a.apply.Lock()
	defer a.apply.Unlock()
	l := a.loaded.Load()
	next := &loaded{profile: l.profile, edges: l.edges}
	next.Source = l.Source
	return a.enforce(next, a.config.Load())
}
