package agent

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/synthetic"
)

// rulings is how many outcomes of lists of rules are remembered. There are few,
// unless rules overlap wildly.
const rulings = 4096

// naming is how names are dealt with under one generation of the policy. Nothing
// of it changes but what is remembered of rows and rulings.
type naming struct {
	generation uint32
	policy     *policy.Policy
	epoch      *epoch

	// queried says that there is a use for queries. If not, cause says why.
	queried bool
	cause   string

	pool    *synthetic.Pool // nil: no name is acquired
	poolErr error           // why it is nil, although the policy has one
	ipv6    bool            // names get IPv6 addresses, too

	compiled *policy.Compiled // this and matcher are nil if the policy has no use for names
	matcher  *policy.Names

	rows  map[string]uint32 // of the kernel's table, by cells; of names.writing
	ruled *sync.Map         // what Acquires says, by rules: see rule
	few   *atomic.Int64     // how many more are remembered
}

// The reasons for leaving queries alone.
const (
	causeOff      = "names are not acquired: fqdn.acquire is false"
	causeExternal = "names are not acquired: another relay carries the flows"
	causeUnused   = "no rule of the policy needs them"
)

// newNaming returns the naming of a policy, without its generation and pool.
func newNaming(p *policy.Policy, compiled *policy.Compiled, e *epoch, cfg *config.Config) *naming {
	g := &naming{policy: p, epoch: e, ruled: &sync.Map{}, few: &atomic.Int64{}, rows: make(map[string]uint32)}
	g.few.Store(rulings)
	switch {
	case !cfg.FQDN.Acquire:
		g.cause = causeOff
	case cfg.Relay.ExternalListener != "":
		g.cause = causeExternal
	case lacksPool(p, cfg) && len(p.PrivateDNS) == 0:
		g.cause = warnNoPool
	case !wantsNames(p, cfg) && len(p.PrivateDNS) == 0:
		g.cause = causeUnused
	default:
		g.queried, g.compiled, g.matcher = true, compiled, policy.NewNames(p)
	}
	return g
}

// wantsNames reports whether there are names that p acquires, if it has a pool.
func wantsNames(p *policy.Policy, cfg *config.Config) bool {
	return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		return r.Action == policy.ActionTunnel && (len(r.Names) > 0 || cfg.FQDN.AlsoMatchOriginalIP)
	})
}

// cells returns the verdicts by port of a name with an original address, which
// may be zero. None of a name that is never acquired is set.
func (g *naming) cells(name string, original netip.Addr) []uint32 {
	if g.pool.Contains(original) {
		original = netip.Addr{} // that of an agent further on, which means nothing here
	}
	rules := g.matcher.Rules(name)
	if len(rules) == 0 && g.policy.AlsoMatchOriginal && !g.open(name) {
		return make([]uint32, g.compiled.Width)
	}
	return g.compiled.NameRow(rules, original)
}

// open reports whether name is not of those that are never acquired.
func (g *naming) open(name string) bool {
	_, protected := g.policy.ProtectedName(name)
	return !protected
}

// rule returns the Tunnel rule by which a name is acquired.
func (g *naming) rule(name string, original netip.Addr) (rule int, ok bool) {
	if g.policy.AlsoMatchOriginal {
		return g.compiled.Acquires(g.cells(name, original))
	}
	rules := g.matcher.Rules(name)
	if len(rules) == 0 {
		return 0, false
	}
	key := rulesKey(rules)
	if known, ok := g.ruled.Load(key); ok {
		return known.(int), known.(int) >= 0
	}
	if rule, ok = g.compiled.Acquires(g.compiled.NameRow(rules, netip.Addr{})); !ok {
		rule = -1
	}
	if g.few.Add(-1) >= 0 {
		g.ruled.Store(key, rule)
	}
	return rule, ok
}

func rulesKey(rules []int) string {
	var key [64]byte
	text := key[:0]
	for _, rule := range rules {
		text = binary.AppendUvarint(text, uint64(rule))
	}
	return string(text)
}

// row returns the row that has cells, from add if there is none yet.
func (g *naming) row(cells []uint32, add func([]uint32) (uint32, error)) (uint32, error) {
	text := make([]byte, 0, 2*len(cells))
	for _, cell := range cells {
		text = binary.AppendUvarint(text, uint64(cell))
	}
	if row, ok := g.rows[string(text)]; ok {
		return row, nil
	}
	row, err := add(cells)
	if err == nil {
		g.rows[string(text)] = row
	}
	return row, err
}

// covering returns the Tunnel rule that a flow to an address matches.
func (g *naming) covering(protocol policy.Protocols, to netip.AddrPort) (*policy.Rule, route, bool) {
	d := g.compiled.Lookup(policy.Flow{Protocol: protocol, Addr: to.Addr(), Port: to.Port()})
	if d.Verdict != policy.VerdictAcquire {
		return nil, route{}, false
	}
	return &g.policy.Rules[d.Rule], g.epoch.routes[d.Rule], true
}

// private returns the carrier that leads to a private DNS server: that of the
// rule which covers it, the channel for private access, or the first.
func (g *naming) private(server netip.Addr) (id string, c *carrier) {
	to := netip.AddrPortFrom(server, dnsPort)
	for _, protocol := range []policy.Protocols{policy.TCP, policy.UDP} {
		if _, way, ok := g.covering(protocol, to); ok {
			return way.channel, way.carrier
		}
	}
	if len(g.policy.Channels) == 0 || len(g.epoch.carriers) == 0 {
		return "", nil
	}
	i := max(0, slices.IndexFunc(g.policy.Channels, func(c policy.Channel) bool { return strings.EqualFold(c.Name, privateChannel) }))
	return g.policy.Channels[i].ID, g.epoch.carriers[i]
}

// isPrivate reports whether addr is that of a private DNS server.
func (g *naming) isPrivate(addr netip.Addr) bool {
	return slices.ContainsFunc(g.policy.PrivateDNS, func(r policy.PrivateDNSRule) bool { return r.Server == addr })
}

// privateChannel is the name of the channel for private access in profiles.
const privateChannel = "Private"

// up reports whether a channel is known to carry flows. Nil carries none.
func (c *carrier) up() bool { return c != nil && c.Status().State == channel.StateUp }

// down reports whether a channel is known to carry none.
func (c *carrier) down() bool { return c != nil && c.Status().State == channel.StateDown }
