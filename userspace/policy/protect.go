package policy

import (
	"net/netip"
	"strings"
)

// NeverAcquired returns the destinations that no profile can have acquired,
// on every port: those whose flows would be meaningless at an edge (loopback,
// link-local, multicast) and those where the answer depends on which machine
// asks (metadata services hand out that machine's credentials).
//
// The IPv4-mapped form of each is covered too, since a [Flow] with a mapped
// address is one with the IPv4 address.
//
// The special-purpose ranges are those of RFC 6890, RFC 4291 and RFC 5771. The
// single addresses are the vendors' own: 168.63.129.16 carries a guest's DNS,
// DHCP and health on Azure, the others are metadata services outside
// link-local space.
func NeverAcquired() []Protection {
	list := []struct{ prefix, reason string }{
		{"0.0.0.0/8", "unspecified"},
		{"127.0.0.0/8", "loopback"},
		{"169.254.0.0/16", "link-local, metadata service"},
		{"224.0.0.0/4", "multicast"},
		{"255.255.255.255/32", "broadcast"},
		{"168.63.129.16/32", "Azure platform"},
		{"100.100.100.200/32", "metadata service (Alibaba Cloud)"},
		{"::/128", "unspecified"},
		{"::1/128", "loopback"},
		{"fe80::/10", "link-local"},
		{"ff00::/8", "multicast"},
		{"fd00:ec2::254/128", "metadata service (AWS)"},
		{"fd00:ec2::23/128", "pod identity agent (AWS)"},
		{"fd20:ce::254/128", "metadata service (Google Cloud)"},
	}
	protected := make([]Protection, len(list))
	for i, p := range list {
		protected[i] = Protection{Prefix: netip.MustParsePrefix(p.prefix), Ports: AllPorts(), Reason: p.reason}
	}
	return protected
}

// ProtectedName returns why a name is never acquired, whatever the rules say:
// it names the host itself (RFC 6761 §6.3), a metadata service, or an edge of
// p, which the agent must find by the host's own resolvers.
func (p *Policy) ProtectedName(name string) (reason string, ok bool) {
	name, ok = CanonicalName(name)
	if !ok {
		return "", false
	}
	return p.protectedNames().reason(name)
}

// protectedNames holds why names are never acquired, by their canonical form.
type protectedNames map[string]string

func (p *Policy) protectedNames() protectedNames {
	names := protectedNames{
		"metadata.google.internal":   "metadata service (Google Cloud)",
		"instance-data.ec2.internal": "metadata service (AWS)",
	}
	for _, c := range p.Channels {
		for _, edges := range [][]Edge{c.Primary, c.Secondary} {
			for _, e := range edges {
				if name, ok := CanonicalName(e.Host); ok {
					names[name] = "edge"
				}
			}
		}
	}
	return names
}

// reason returns why the canonical name is never acquired, if it is not.
func (n protectedNames) reason(name string) (string, bool) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return "loopback", true
	}
	why, ok := n[name]
	return why, ok
}
