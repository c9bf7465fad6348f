// Package container says where flows come from that the host forwards: it finds
// the network namespace or the virtual machine that has their source address, and
// what people call it, such as "docker web".
//
// What it finds is for people. All of it is optional: what cannot be read is not
// known, and nothing depends on it.
package container

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// The bounds of what is looked at and kept. A host with more has containers
// without a name.
const (
	maxProcesses  = 1 << 16
	maxNamespaces = 1 << 12
	maxAddresses  = 64      // of one namespace
	maxFile       = 4 << 20 // bytes of a file that is read

	// fresh is how long what was read of the host is taken for true, and soon how
	// long at least lies between two looks for what was not found: share times what
	// a look takes if that is more, for on a host with many processes that is long,
	// and some addresses are never found.
	fresh = 30 * time.Second
	soon  = 2 * time.Second
	share = 50
)

// Options say where a host keeps what is read. The zero value is where hosts do.
type Options struct {
	Proc       string // the proc file system
	Namespaces string // folder of named network namespaces, ip-netns(8)
	Docker     string // folder of Docker's containers
	Podman     string // Podman's list of containers
	Libvirt    string // folder of libvirt's running machines
	Log        *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Proc = cmp.Or(o.Proc, "/proc")
	o.Namespaces = cmp.Or(o.Namespaces, "/run/netns")
	o.Docker = cmp.Or(o.Docker, "/var/lib/docker/containers")
	o.Podman = cmp.Or(o.Podman, "/var/lib/containers/storage/overlay-containers/containers.json")
	o.Libvirt = cmp.Or(o.Libvirt, "/run/libvirt/qemu")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Register knows the network namespaces of a host. All methods may be called
// concurrently. It asks about the network namespace of the thread that calls.
type Register struct {
	opts Options

	mu     sync.Mutex
	places []place
	looked time.Time
	took   time.Duration // by the last look
}

// place is a network namespace other than the host's own.
type place struct {
	folder uint64 // inode of what proc shows of it, which needs no privilege to be seen
	inode  uint64 // of the namespace itself, or 0 if that may not be asked
	addrs  []netip.Addr
	name   string
}

// New returns a register that has not looked yet.
func New(o Options) *Register { return &Register{opts: o.withDefaults()} }

// Origin is where a forwarded flow comes from.
type Origin struct {
	// Source is the address and port from which it was sent, before the host
	// translated them.
	Source netip.AddrPort

	// Name is what sent it, such as "docker web" or "netns red", or empty if that
	// is not known.
	Name string
}

// Origin finds out where a flow comes from that leaves the host from source to
// dest. It reads a part of /proc now and then, which takes milliseconds on a large
// host.
func (r *Register) Origin(protocol flow.Protocol, source, dest netip.AddrPort) Origin {
	origin := Origin{Source: source}
	before, err := translated(r.opts.Proc, protocol, source, dest)
	switch {
	case err != nil:
		r.opts.Log.Debug("ask connection tracking", slog.Any("source", source), slog.Any("error", err))
	case before.IsValid():
		origin.Source = before
	}
	addr := origin.Source.Addr().Unmap()
	holds := func(p place) bool { return slices.Contains(p.addrs, addr) }
	switch found := r.find(holds); len(found) {
	case 0:
		origin.Name = r.opts.machine(addr)
	case 1:
		origin.Name = found[0].name
	default: // several have the address: which of them it was, nobody can tell
	}
	return origin
}

// Namespace returns the name of the network namespace with this inode, or an empty
// text if it has none that is known.
func (r *Register) Namespace(inode uint64) string {
	found := r.find(func(p place) bool { return p.inode == inode && inode != 0 })
	if len(found) == 0 {
		return ""
	}
	return found[0].name
}

// find returns the places that match. It looks again if that may help.
func (r *Register) find(matches func(place) bool) (found []place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	age, rest := time.Since(r.looked), share*r.took
	if r.looked.IsZero() || age > max(fresh, rest) {
		r.look()
	} else if age > max(soon, rest) && !slices.ContainsFunc(r.places, matches) {
		r.look()
	}
	for _, p := range r.places {
		if matches(p) {
			found = append(found, p)
		}
	}
	return found
}

func (r *Register) look() {
	began := time.Now()
	r.places = r.opts.scan()
	r.looked = time.Now()
	r.took = r.looked.Sub(began)
}

// pending is how many flows may wait to be named.
const pending = 256

// Namer names forwarded flows one after the other, so that nobody waits for it.
type Namer struct {
	register *Register
	flows    chan *flow.Live
}

// NewNamer returns a namer that asks r. The caller runs it.
func NewNamer(r *Register) *Namer {
	return &Namer{r, make(chan *flow.Live, pending)}
}

// Name has a flow named soon, if it is a forwarded one. It does not wait; in a flood
// of flows some stay without a name.
func (n *Namer) Name(live *flow.Live) {
	if !live.Record().Forwarded {
		return
	}
	select {
	case n.flows <- live:
	default:
	}
}

// Run names flows until ctx is done.
func (n *Namer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case live := <-n.flows:
			rec := live.Record()
			origin := n.register.Origin(rec.Protocol, rec.Source, rec.OrigDst)
			switch {
			case origin.Name != "":
				live.SetContainer(origin.Name)
			case origin.Source.Addr() != rec.Source.Addr():
				live.SetContainer(origin.Source.Addr().String()) // which the host translated
			}
		}
	}
}
