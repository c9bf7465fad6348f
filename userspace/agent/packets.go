package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/uplink"
)

// uplinkRetry is how long after a failure an uplink is tried again.
const uplinkRetry = 5 * time.Second

// packets is the packet path of an agent: its uplinks, as they come and go.
type packets struct {
	agent   *Agent
	watcher *uplink.Watcher // nil while the path is closed
	retry   *time.Timer     // runs while an uplink has failed
	flipped chan struct{}   // asks for live flows to be judged by a new policy
	prefix  tunnelled

	mu      sync.Mutex
	outlets map[int]*outlet      // by index of the uplink
	failed  map[int]failedUplink // that should be there
	lost    map[int]uint64       // how often programs were found detached
	past    map[string]uint64    // what closed outlets have counted of datagrams
	there   map[int]bool         // by index, of uplinks by which packets leave; nil before the first look
}

// failedUplink is one from which nothing is acquired.
type failedUplink struct {
	uplink uplink.Uplink
	cause  error
}

// tunnelled are the prefixes that a policy tunnels to. They are worked out once.
type tunnelled struct {
	of  *loaded
	all []netip.Prefix
}

// newPackets returns a packet path that is closed, nil if it is to stay so.
func newPackets(a *Agent) *packets {
	if !packetsOn(a.config.Load()) {
		return nil
	}
	return &packets{
		agent:   a,
		retry:   time.NewTimer(uplinkRetry),
		flipped: make(chan struct{}, 1),
		outlets: make(map[int]*outlet),
		failed:  make(map[int]failedUplink),
		lost:    make(map[int]uint64),
		past:    make(map[string]uint64),
	}
}

// open acquires from the uplinks that are there, after what an earlier agent has
// left behind is removed.
func (p *packets) open(ctx context.Context) error {
	if p == nil {
		return nil
	}
	removed, err := enclave.Sweep()
	if err != nil {
		return err
	}
	if removed > 0 {
		p.agent.log.Info("removed what an earlier agent left", slog.Int("pairs", removed))
	}
	devices := p.agent.config.Load().Packet.Uplinks
	p.watcher, err = uplink.Open(uplink.Options{Devices: devices, Prefixes: p.prefixes, Log: p.agent.log})
	if err != nil {
		return err
	}
	current, err := p.watcher.Uplinks()
	if err != nil {
		return err
	}
	p.follow(ctx, current)
	return nil
}

// prefixes are what the policy in force tunnels to. It is called by one goroutine
// at a time.
func (p *packets) prefixes() []netip.Prefix {
	l := p.agent.loaded.Load()
	if l != p.prefix.of {
		p.prefix = tunnelled{l, l.Policy.TunnelPrefixes()}
	}
	return p.prefix.all
}

// run follows the uplinks until ctx is done, or that is not possible any more.
func (p *packets) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var judging sync.WaitGroup
	judging.Go(func() { p.judge(ctx) })
	defer judging.Wait()
	defer cancel()
	return p.watcher.Run(ctx, func(current []uplink.Uplink) { p.follow(ctx, current) })
}

// follow makes the outlets those of the current uplinks. One that cannot be made is
// tried again later.
func (p *packets) follow(ctx context.Context, current []uplink.Uplink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost, err := p.agent.datapath.CheckUplinks()
	if err != nil {
		p.agent.log.Warn("check uplinks", slog.Any("error", err))
	}
	wanted := make(map[int]uplink.Uplink, len(current))
	for _, u := range current {
		wanted[u.Index] = u
	}
	for _, index := range slices.Sorted(maps.Keys(p.outlets)) {
		p.keep(p.outlets[index], wanted, lost)
	}
	maps.DeleteFunc(p.failed, func(index int, _ failedUplink) bool { _, ok := wanted[index]; return !ok })
	for _, u := range current {
		if p.outlets[u.Index] == nil && ctx.Err() == nil {
			p.add(ctx, u)
		}
	}
	p.forget(wanted)
	if len(p.failed) > 0 {
		p.retry.Reset(uplinkRetry)
	}
	p.welcome(current)
}

// welcome has edges looked for at once when there is a way to them that was not
// there before. The caller holds p.mu.
func (p *packets) welcome(current []uplink.Uplink) {
	before := p.there
	p.there = make(map[int]bool, len(current))
	back := false
	for _, u := range current {
		if !u.Away {
			p.there[u.Index] = true
			back = back || !before[u.Index]
		}
	}
	if before != nil && back {
		p.agent.epochs.retry()
	}
}

// keep brings an outlet up to date, or closes it: one whose pair was taken away is
// made anew. The caller holds p.mu.
func (p *packets) keep(o *outlet, wanted map[int]uplink.Uplink, lost []int) {
	log := p.agent.log.With(slog.String("uplink", o.uplink.Name))
	u, ok := wanted[o.uplink.Index]
	switch {
	case !ok:
		log.Info("device is no uplink any more")
		p.remove(o, (*outlet).close)
		return
	case o.enclave.Check() != nil, slices.Contains(lost, o.enclave.Device()):
		log.Warn("somebody took the pair of an uplink away", slog.String("pair", o.enclave.Name()))
		p.remove(o, (*outlet).shut)
		return
	}
	var err error
	if slices.Contains(lost, u.Index) {
		p.lost[u.Index]++
		log.Warn("somebody detached the programs of an uplink")
		err = p.agent.datapath.AttachUplink(u.Index)
	}
	if err = errors.Join(err, o.follow(u)); err != nil {
		p.remove(o, (*outlet).shut)
		p.fail(u, err)
	}
}

// remove forgets an outlet, after close has closed it. The caller holds p.mu.
func (p *packets) remove(o *outlet, close func(*outlet) error) {
	delete(p.outlets, o.uplink.Index)
	err := close(o)
	addEvents(p.past, o.datagrams.Stats())
	if err != nil {
		p.agent.log.Warn("close uplink", slog.String("uplink", o.uplink.Name), slog.Any("error", err))
	}
}

// add opens an outlet. The caller holds p.mu.
func (p *packets) add(ctx context.Context, u uplink.Uplink) {
	o, err := p.agent.openOutlet(ctx, u)
	if err != nil {
		p.fail(u, err)
		return
	}
	delete(p.failed, u.Index)
	p.outlets[u.Index] = o
	p.agent.log.Info("acquiring packets", slog.String("uplink", u.Name), slog.Int("device", u.Index),
		slog.Int("mtu", u.MTU), slog.String("pair", o.enclave.Name()))
}

// fail notes that nothing is acquired from an uplink. That is logged once for each
// cause; and not where the device has gone meanwhile. The caller holds p.mu.
func (p *packets) fail(u uplink.Uplink, err error) {
	before, again := p.failed[u.Index]
	p.failed[u.Index] = failedUplink{u, err}
	gone := errors.Is(err, unix.ENODEV)
	if !gone && !(again && before.cause.Error() == err.Error()) {
		p.agent.log.Error("acquire packets", slog.String("uplink", u.Name), slog.Any("error", err))
	}
}

// forget detaches devices that an earlier agent had for uplinks. The caller holds
// p.mu.
func (p *packets) forget(wanted map[int]uplink.Uplink) {
	for _, index := range p.agent.datapath.Uplinks() {
		if _, ok := wanted[index]; ok {
			continue
		}
		err := errors.Join(p.agent.datapath.DetachUplink(index), p.agent.datapath.Maps.DeleteUplink(index))
		if err != nil {
			p.agent.log.Warn("detach uplink", slog.Int("device", index), slog.Any("error", err))
		}
	}
}

// judge ends live UDP flows that a new policy would not take where they are taken,
// and has uplinks looked for that it needs, until ctx is done. It tries uplinks
// again that have failed.
func (p *packets) judge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.retry.C:
		case <-p.flipped:
			p.mu.Lock()
			for _, o := range p.outlets {
				o.datagrams.Judge(o.dialer.keep)
			}
			p.mu.Unlock()
		}
		p.watcher.Look()
	}
}

// policyFlipped says that a policy was put in force. It does not block.
func (p *packets) policyFlipped() {
	if p == nil {
		return
	}
	select {
	case p.flipped <- struct{}{}:
	default:
	}
}

// hush ends all flows: what has not ended is reset, and hears of it.
func (p *packets) hush() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outlets {
		if err := o.hush(); err != nil {
			p.agent.log.Warn("end flows of uplink", slog.String("uplink", o.uplink.Name), slog.Any("error", err))
		}
	}
}

// close removes the enclaves. The programs of the uplinks stay, and go by the
// hardening of each rule: the datapath detaches them, or another agent takes them
// over. It may be called again.
func (p *packets) close() error {
	if p == nil {
		return nil
	}
	p.retry.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for index, o := range p.outlets {
		errs = append(errs, o.shut())
		delete(p.outlets, index)
	}
	if p.watcher != nil {
		errs = append(errs, p.watcher.Close())
		p.watcher = nil
	}
	return errors.Join(errs...)
}
