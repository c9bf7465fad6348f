// Package agent is the composition root: it puts the datapath, the listeners,
// the relay, the channels and the control socket together, and takes them down
// in the order in which nothing is lost.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/container"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/hostname"
	"github.com/bpfacq/bpfacq/userspace/listen"
	"github.com/bpfacq/bpfacq/userspace/metrics"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/relay"
	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// endedFlows is how many ended flows are remembered for `bpfacq flows`.
const endedFlows = 1024

// Options are what an agent needs to run.
type Options struct {
	Config   *config.Config
	Version  string
	Log      *slog.Logger
	LogLevel *slog.LevelVar // follows the configuration; may be nil

	// Reread reads the configuration again for a reload; nil keeps Config.
	Reread func() (*config.Config, error)

	// Reload asks for a reload each time it yields; it may be nil.
	Reload <-chan struct{}

	// Notify, if not nil, is told what the agent is at. It is called in order,
	// never concurrently, and must not block for long.
	Notify func(supervisor.Notice)

	// Watchdog is within which time Notify is told, again and again from the
	// first stage Ready on, that the agent is alive, if it is. 0 is never.
	Watchdog time.Duration
}

// Agent is a running agent. It implements control.Agent and relay.Dialer.
type Agent struct {
	opts     Options
	log      *slog.Logger
	started  time.Time
	datapath *loader.Datapath
	flows    *flow.Table
	relay    *relay.Relay
	listener *listen.Listener // nil while another relay carries the flows
	metrics  http.Handler
	epochs   *epochs
	notices  *notices
	states   chan struct{} // asks for the channels' states to be written
	look     chan struct{} // asks for edges to be looked for
	flush    chan struct{} // asks for the host's caches to be emptied

	packets *packets         // nil without a packet path
	origins *container.Namer // of forwarded flows

	names     *names
	queries   *queries
	hostnames *hostname.Table

	apply  sync.Mutex                       // held while a policy or a configuration is put in force
	places map[policy.Edge][]netip.AddrPort // where DNS found edges; of apply
	config atomic.Pointer[config.Config]
	loaded atomic.Pointer[loaded]
}

// Run runs an agent until ctx is done, and then takes the datapath off the host.
// The error says what kept it from starting or made it stop; the host is then as
// it was before, or, if an earlier agent's datapath was in force and this one
// never announced itself, as that one left it.
func Run(ctx context.Context, o Options) error {
	notices := &notices{notify: o.Notify}
	notices.starting("loading programs")
	datapath, err := load(o.Config)
	if err != nil {
		return fmt.Errorf("load datapath: %w", err)
	}
	defer datapath.Close()
	o.Log.Info("datapath loaded", slog.String("cgroup", datapath.Cgroup),
		slog.String("pins", datapath.Pins), slog.Bool("took_over", datapath.TookOver))

	a := &Agent{
		opts:      o,
		log:       o.Log,
		started:   time.Now(),
		datapath:  datapath,
		flows:     flow.NewTable(endedFlows),
		epochs:    newEpochs(o.Log),
		notices:   notices,
		states:    make(chan struct{}, 1),
		look:      make(chan struct{}, 1),
		flush:     make(chan struct{}, 1),
		origins:   container.NewNamer(container.New(container.Options{Log: o.Log})),
		names:     newNames(datapath.Maps, o.Log),
		hostnames: hostname.NewTable(hostname.DefaultSize),
		places:    make(map[policy.Edge][]netip.AddrPort),
	}
	if err := a.names.inherit(datapath.Maps); err != nil {
		o.Log.Warn("read names of the predecessor", slog.Any("error", err))
	}
	a.config.Store(o.Config)
	a.metrics = metrics.Handler(a, o.Version)

	announced, err := a.run(ctx)
	if !announced && !datapath.TookOver {
		err = errors.Join(err, datapath.Detach())
	}
	return err
}

func load(c *config.Config) (*loader.Datapath, error) {
	relayCgroup := c.Relay.ExternalCgroup
	if c.Relay.ExternalListener == "" {
		var err error
		if relayCgroup, err = loader.OwnCgroup(); err != nil {
			return nil, err
		}
	}
	return loader.Load(loader.Options{
		Cgroup:      c.Kernel.Cgroup,
		Pins:        c.Kernel.Pins,
		RelayCgroup: relayCgroup,
		OriginalDst: c.Relay.ExternalListener != "",
		Packets:     packetsOn(c),
	})
}

// run brings up what carries flows, announces the agent to the programs, and
// returns when ctx is done or a part of the agent has failed. An agent that was
// announced has then been taken off the host, and no goroutine of it is left.
func (a *Agent) run(ctx context.Context) (announced bool, err error) {
	defer a.epochs.close()
	defer a.names.close()
	self, err := a.listen(ctx)
	if err != nil {
		return false, err
	}
	a.queries = a.newQueries(ctx, self)
	a.packets = newPackets(a)
	defer func() { err = errors.Join(err, a.packets.close()) }()
	a.flows.OnOpen(a.origins.Name)
	if a.relay, err = relay.New(relay.Options{Dialer: a, Flows: a.flows, Log: a.log}); err != nil {
		return false, errors.Join(fmt.Errorf("make relay: %w", err), a.closeListener())
	}
	drain := sync.OnceFunc(a.accept(ctx))
	defer drain()
	defer a.queries.stop()

	a.notices.starting("applying profile " + a.config.Load().Profile)
	if err := a.applyFirst(ctx); err != nil {
		return false, err
	}
	if err := a.packets.open(ctx); err != nil {
		return false, fmt.Errorf("follow uplinks: %w", err)
	}
	tasks, err := a.startTasks(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tasks.stop()) }()

	if self.LeaseUntil, err = a.leaseEnd(); err != nil {
		return false, err
	}
	if self.LearnFrom, err = learnFrom(); err != nil {
		return false, err
	}
	self.Packets = a.packets != nil
	self.Containers = a.config.Load().Packet.Containers != config.ContainersOff
	if err := a.announce(self); err != nil {
		return false, err
	}
	a.log.Info("acquiring", slog.Uint64("generation", uint64(a.loaded.Load().Generation)))
	a.notices.ready(a.summary())
	<-tasks.ctx.Done()

	a.notices.stopping("detaching")
	endLease := a.keepLease(ctx)
	return true, a.detach(ctx, func() {
		_ = tasks.stop() // what it returns is returned by the deferred call
		endLease()
		drain()
	})
}

// detach takes the datapath off the host, so that from then on new flows go direct.
// Flows of the packet path need it until they have ended, so drain is called
// before; those of the socket path do not.
func (a *Agent) detach(ctx context.Context, drain func()) error {
	err := a.dismissQueries()
	a.forgetSynthetic(ctx)
	if a.packets != nil {
		err = errors.Join(err, a.datapath.DetachSockets())
		drain()
		err = errors.Join(err, a.packets.close())
	}
	return errors.Join(err, a.datapath.Detach())
}
