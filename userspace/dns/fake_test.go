package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

type fakeOrigin struct {
	query atomic.Pointer[flow.Query] // nil: unknown
}

func (o *fakeOrigin) Query(int) (flow.Query, error) {
	if q := o.query.Load(); q != nil {
		return *q, nil
	}
	return flow.Query{}, errors.New("no record")
}

// fakeNames acquires what judge says.
type fakeNames struct {
	mu       sync.Mutex
	judge    map[string]Judgement
	byAddr   func(netip.Addr) bool // acquires undecided names
	given    map[string]Address
	noted    map[string][]Original
	answered map[string]int
	fail     error
	hold     chan struct{} // Assign waits for it
}

func newFakeNames() *fakeNames {
	return &fakeNames{
		judge: make(map[string]Judgement), given: make(map[string]Address),
		noted: make(map[string][]Original), answered: make(map[string]int),
	}
}

func (n *fakeNames) Judge(name string, original netip.Addr) Judgement {
	n.mu.Lock()
	defer n.mu.Unlock()
	j := n.judge[name]
	if j.Undecided && original.IsValid() {
		j.Undecided, j.Acquired = false, n.byAddr(original)
	}
	if j.Acquired {
		j.Address = n.given[name]
	}
	return j
}

func (n *fakeNames) Assign(ctx context.Context, name string, original Original) (Address, error) {
	if n.hold != nil {
		select {
		case <-n.hold:
		case <-ctx.Done():
			return Address{}, ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return Address{}, n.fail
	}
	n.noted[name] = append(n.noted[name], original)
	if _, ok := n.given[name]; !ok {
		at := byte(len(n.given) + 1)
		a := Address{IPv4: netip.AddrFrom4([4]byte{6, 6, 0, at})}
		if n.judge[name].IPv6 {
			a.IPv6 = netip.AddrFrom16([16]byte{0xfd, 15: at})
		}
		n.given[name] = a
	}
	return n.given[name], nil
}

func (n *fakeNames) Protected(name string) bool { return name == "edge.example" }

func (n *fakeNames) Answered(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answered[name]++
}

func (n *fakeNames) Reverse(addr netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, a := range n.given {
		if addr == a.IPv4 || addr == a.IPv6 {
			return name, true
		}
	}
	return "", netip.MustParsePrefix("6.6.0.0/16").Contains(addr) || netip.MustParsePrefix("fd00::/64").Contains(addr)
}

func (n *fakeNames) originals(name string) []Original {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.noted[name])
}

func (n *fakeNames) acquire(name string, j Judgement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.judge[name] = j
}

func (n *fakeNames) give(name string, a Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.given[name] = a
}

func (n *fakeNames) uses(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.answered[name]
}

// fakeUpstream reaches servers on loopback.
type fakeUpstream struct {
	route   Route
	tunnels atomic.Int64
	broken  error // of Tunnel
	through func(netip.AddrPort) netip.AddrPort
	dials   atomic.Int64

	distrust atomic.Bool
}

func (u *fakeUpstream) Trusted(q flow.Query) bool { return !u.distrust.Load() }

func (u *fakeUpstream) Route(flow.Query, string) Route { return u.route }

func (u *fakeUpstream) DialUDP(ctx context.Context, q flow.Query) (*net.UDPConn, error) {
	u.dials.Add(1)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", q.Server.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func (u *fakeUpstream) DialTCP(ctx context.Context, q flow.Query) (*net.TCPConn, error) {
	u.dials.Add(1)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", q.Server.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (u *fakeUpstream) Tunnel(ctx context.Context, server netip.AddrPort) (io.ReadWriteCloser, error) {
	u.tunnels.Add(1)
	if u.broken != nil {
		return nil, u.broken
	}
	if u.through != nil {
		server = u.through(server)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", server.String())
}

// fakePrivate has one suffix and one server.
type fakePrivate struct {
	suffix string // with a dot before it; for names of one label, too
	server netip.AddrPort
	down   bool
}

func (p *fakePrivate) Server(name string) (netip.AddrPort, string, bool) {
	switch {
	case p.suffix == "" || p.down:
	case len(name) > len(p.suffix) && name[len(name)-len(p.suffix):] == p.suffix:
		return p.server, name, true
	case name != "" && !slices.Contains([]byte(name), '.'):
		return p.server, name + p.suffix, true
	}
	return netip.AddrPort{}, "", false
}

func (p *fakePrivate) Holds(addr netip.Addr) (private, up bool) {
	return p.suffix != "" && addr == netip.MustParseAddr("6.6.255.254"), !p.down
}

type fakeObserver struct {
	mu   sync.Mutex
	seen []Sighting
}

func (o *fakeObserver) Observe(s Sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, s)
}

func (o *fakeObserver) sightings() []Sighting {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.seen)
}
