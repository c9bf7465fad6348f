package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// resolveLimit is longer than a resolver waits for a server that is silent.
const resolveLimit = 7 * time.Second

// fullShare is how full a pool is that deserves a word.
const fullShare = 0.9

// naming returns the policy as the agent would use it to acquire names, or nil if
// there are none to acquire.
func (x *examination) naming() *policy.Policy {
	if x.policy == nil || !x.config.FQDN.Acquire || x.config.Relay.ExternalListener != "" || !x.wantsNames() {
		return nil
	}
	p := *x.policy
	p.Pools, p.AlsoMatchOriginal = nil, x.config.FQDN.AlsoMatchOriginalIP
	for _, pool := range []netip.Prefix{p.Settings.SyntheticPool, x.config.FQDN.Pool6()} {
		if pool.IsValid() {
			p.Pools = append(p.Pools, pool)
		}
	}
	return &p
}

// wantsNames reports whether a rule of the profile acquires names.
func (x *examination) wantsNames() bool {
	return slices.ContainsFunc(x.policy.Rules, func(r policy.Rule) bool {
		return r.Action == policy.ActionTunnel && (len(r.Names) > 0 || x.config.FQDN.AlsoMatchOriginalIP)
	})
}

// checkDNS says whether queries are taken, as the names of Tunnel rules need it.
func checkDNS(x *examination) []Finding {
	switch {
	case x.policy == nil:
		return nil
	case !x.wantsNames():
		return []Finding{fine("no rule acquires names")}
	case x.config.Relay.ExternalListener != "":
		return []Finding{noted("", "another relay carries the flows, which does not know names: they are not acquired")}
	case !x.config.FQDN.Acquire:
		return []Finding{noted("set fqdn.acquire, if they are to be acquired", "the profile has names to acquire, and fqdn.acquire is off")}
	case x.agent == nil:
		return nil
	case !x.agent.DNS.On:
		return []Finding{warned("see bpfacq dns status", "names are not acquired: %s", cmp.Or(x.agent.DNS.Cause, "no cause is known"))}
	}
	d := &x.agent.DNS
	var all []Finding
	if d.Pool.LogError != "" {
		all = append(all, failed("make room, or see to the disk below "+x.config.StateDir, "no new name is acquired: %s", d.Pool.LogError))
	}
	if d.Pool.Full > 0 || float64(d.Pool.Used) >= fullShare*float64(d.Pool.Capacity) {
		all = append(all, warned("have hostAcquisitionInternalSubNet of the profile made larger",
			"the pool holds %d of %d names, and %d queries found it full", d.Pool.Used, d.Pool.Capacity, d.Pool.Full))
	}
	if len(all) == 0 {
		all = append(all, fine("queries are taken, %d of %d names are in use", d.Pool.Used, d.Pool.Capacity))
	}
	return all
}

// checkPool says whether the agent would take the pools.
func checkPool(x *examination) []Finding {
	p := x.naming()
	if p == nil {
		return nil
	}
	if !p.Settings.SyntheticPool.IsValid() {
		return []Finding{warned("have hostAcquisitionInternalSubNet added to the profile", "the profile has names to acquire, and no pool of addresses for them")}
	}
	var all []Finding
	for _, pool := range p.Pools {
		if err := policy.CheckPool(p, pool); err != nil {
			all = append(all, failed("have the profile corrected, or fqdn.synthetic-ipv6", "the agent rejects the profile: %v", err))
		}
		all = append(all, x.checkRoutes(pool)...)
	}
	switch {
	case x.netErr != nil:
		all = append(all, x.unknown("", x.netErr))
	case len(all) == 0:
		all = append(all, fine("no route of the host leads to %s", prefixList(p.Pools)))
	}
	return all[:min(len(all), maxListed)]
}

// checkRoutes finds the routes that lead into a pool.
func (x *examination) checkRoutes(pool netip.Prefix) []Finding {
	if x.netErr != nil {
		return nil
	}
	var all []Finding
	for _, r := range x.network.Routes {
		if !r.Prefix.Overlaps(pool) {
			continue
		}
		link := fmt.Sprintf("link %d", r.Link)
		for _, l := range x.network.Links {
			if l.Index == r.Link {
				link = l.Name
			}
		}
		all = append(all, failed("have another range put into hostAcquisitionInternalSubNet, or remove the route",
			"the pool %s overlaps the route to %s through %s: the agent rejects the profile", pool, r.Prefix, link))
	}
	return all
}

func prefixList(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, " or ")
}

// checkSwitch says whether the C library asks DNS at all: nsswitch.conf(5).
func checkSwitch(x *examination) []Finding {
	if x.naming() == nil {
		return nil
	}
	content, err := text(x.Root, "etc/nsswitch.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{fine("there is no /etc/nsswitch.conf: files are looked at, then DNS is asked")}
	}
	if err != nil {
		return []Finding{x.unknown("", err)}
	}
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		database, services, _ := strings.Cut(line, ":")
		if strings.TrimSpace(database) != "hosts" {
			continue
		}
		listed := strings.Fields(services)
		if slices.Contains(listed, "dns") || slices.Contains(listed, "resolve") {
			return []Finding{fine("names are looked up by %s", strings.Join(listed, " "))}
		}
		return []Finding{failed(`add dns to the line "hosts:" of /etc/nsswitch.conf`,
			"programs look names up by %q and never ask DNS: their names are not acquired", strings.Join(listed, " "))}
	}
	return []Finding{fine("/etc/nsswitch.conf leaves it at files, then DNS")}
}

// checkHostsFile finds names that rules acquire and that nobody ever asks for.
func checkHostsFile(x *examination) []Finding {
	p := x.naming()
	if p == nil {
		return nil
	}
	content, err := text(x.Root, "etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{fine("there is no /etc/hosts")}
	}
	if err != nil {
		return []Finding{x.unknown("", err)}
	}
	var all []Finding
	names := policy.NewNames(p)
	for name, addr := range HostsFile(content) {
		if len(all) == maxListed {
			break
		}
		if rule, ok := acquiring(p, names, name); ok {
			all = append(all, warned("remove the line, if the name is to be acquired",
				"/etc/hosts has %q at %s: it is never asked for, and so not acquired by rule %s", name, addr, rule.ID))
		}
	}
	if len(all) == 0 {
		all = append(all, fine("/etc/hosts has no name that a rule acquires"))
	}
	return all
}

// HostsFile yields the names in a hosts file with the address of each, both as they
// stand there: hosts(5).
func HostsFile(content string) iter.Seq2[string, string] {
	return func(yield func(name, addr string) bool) {
		for line := range strings.Lines(content) {
			line, _, _ = strings.Cut(line, "#")
			fields := strings.Fields(line)
			for _, name := range fields[min(1, len(fields)):] {
				if !yield(name, fields[0]) {
					return
				}
			}
		}
	}
}

// acquiring is the rule that acquires a name, if one does. The matcher of all rules
// answers for the many names that no rule is about.
func acquiring(p *policy.Policy, names *policy.Names, name string) (rule *policy.Rule, ok bool) {
	about := names.Rules(name)
	i := slices.IndexFunc(about, func(i int) bool { return p.Rules[i].Action == policy.ActionTunnel })
	if i < 0 || !p.MatchName(policy.Flow{Protocol: policy.TCP, Name: name}).Acquired {
		return nil, false
	}
	return &p.Rules[about[i]], true
}

// checkName asks for a name that is acquired, as an application would.
func checkName(ctx context.Context, x *examination) []Finding {
	p := x.naming()
	if p == nil || len(p.Pools) == 0 || x.agent == nil || !x.agent.DNS.On {
		return nil
	}
	name, rule := literalName(p)
	if rule == nil {
		return []Finding{noted("bpfacq dns query NAME", "the rules have only patterns: there is no name to try")}
	}
	down := func(ch control.Channel) bool { return ch.ID == rule.Channel && ch.State != "up" }
	if rule.Hardening == policy.HardeningBypass && slices.ContainsFunc(x.agent.Channels, down) {
		return []Finding{noted("see agent", "%s is not acquired while its channel is down", name)}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	addrs, err := x.Resolve(ctx, name)
	remedy := "bpfacq dns query " + name + " tells each step; encrypted DNS, a cache or /etc/hosts would explain it"
	switch {
	case err != nil:
		return []Finding{warned(remedy, "%s is to be acquired, and nobody knows it: %v", name, err)}
	case !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return p.Pools[0].Contains(a.Unmap()) }):
		texts := make([]string, len(addrs))
		for i, a := range addrs {
			texts[i] = a.String()
		}
		return []Finding{warned(remedy, "%s is to be acquired, and applications get %s, which is not of the pool", name, strings.Join(texts, ", "))}
	}
	return []Finding{fine("%s is acquired: applications get %s", name, addrs[0])}
}

// maxTried bounds the search for a name without wild parts.
const maxTried = 100

// literalName finds a name that is acquired whatever upstream says, among the
// patterns that stand for one name.
func literalName(p *policy.Policy) (name string, rule *policy.Rule) {
	names, tried := policy.NewNames(p), 0
	for _, rule := range p.Rules {
		if rule.Action != policy.ActionTunnel || !rule.AcquireIfUnresolved {
			continue
		}
		for _, pattern := range rule.Names {
			name, ok := literal(pattern.Source)
			if tried++; tried > maxTried {
				return "", nil
			}
			if !ok {
				continue
			}
			if by, ok := acquiring(p, names, name); ok {
				return name, by
			}
		}
	}
	return "", nil
}

// literal returns the one text that a regular expression matches, if it is so.
func literal(source string) (string, bool) {
	parsed, err := syntax.Parse(source, syntax.Perl)
	if err != nil || parsed.Op != syntax.OpLiteral {
		return "", false
	}
	return policy.CanonicalName(string(parsed.Rune))
}
