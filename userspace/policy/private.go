package policy

import (
	"net/netip"
	"strings"
)

// PrivateServer returns the private DNS server that answers for name, and the
// canonical name that it is to be asked for.
//
// A name that is a rule's suffix or lies below it, on label borders, is asked
// for as it is; of several suffixes the longest wins, of equal ones the first
// rule. Any other name of a single label goes to the first SingleLabel rule, as
// name.suffix; the answer then belongs at the name that the client asked for.
func (p *Policy) PrivateServer(name string) (server netip.Addr, ask string, ok bool) {
	name, ok = CanonicalName(name)
	if !ok {
		return netip.Addr{}, "", false
	}
	var best, single *PrivateDNSRule
	for i := range p.PrivateDNS {
		rule := &p.PrivateDNS[i]
		if belongs(name, rule.Suffix) && (best == nil || len(rule.Suffix) > len(best.Suffix)) {
			best = rule
		}
		if rule.SingleLabel && single == nil {
			single = rule
		}
	}
	switch {
	case best != nil:
		return best.Server, name, true
	case single == nil || strings.Contains(name, "."):
		return netip.Addr{}, "", false
	}
	ask, ok = CanonicalName(name + "." + single.Suffix)
	if !ok {
		return netip.Addr{}, "", false
	}
	return single.Server, ask, true
}

// belongs reports whether a canonical name is suffix or lies below it.
func belongs(name, suffix string) bool {
	above, ok := strings.CutSuffix(name, suffix)
	return ok && suffix != "" && (above == "" || strings.HasSuffix(above, "."))
}
