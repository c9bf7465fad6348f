package profile

import (
	"fmt"
	"net/netip"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// maxPrivateRules is how many private DNS rules a profile can have: each query
// is compared with all of them.
const maxPrivateRules = 10_000

// privateDNS reads which server answers for which suffix. A rule that another
// one leaves nothing to is odd, but does no harm.
func privateDNS(list *node) []policy.PrivateDNSRule {
	var read []policy.PrivateDNSRule
	suffixes, single := make(map[string]bool), ""
	for item := range list.items() {
		o, ok := item.object("suffix", "dnsServerAddress", "isSingleLabelSuffix")
		if !ok {
			continue
		}
		if len(read) == maxPrivateRules {
			item.reject(fmt.Sprintf("at most %d private DNS rules", maxPrivateRules))
			break
		}
		rule := policy.PrivateDNSRule{
			Suffix:      o.required("suffix").suffix(),
			Server:      o.required("dnsServerAddress").dnsServer(),
			SingleLabel: o.optional("isSingleLabelSuffix").boolean(false),
		}
		read = append(read, rule)
		switch {
		case rule.Suffix == "":
			continue
		case rule.SingleLabel && single != "":
			o.optional("isSingleLabelSuffix").warn("single labels get the suffix %s of an earlier rule", quote(single))
		case rule.SingleLabel:
			single = rule.Suffix
		}
		if suffixes[rule.Suffix] && (!rule.SingleLabel || single != rule.Suffix) {
			o.required("suffix").warn("an earlier rule has this suffix, and answers for it")
		}
		suffixes[rule.Suffix] = true
	}
	return read
}

// dnsServer reads the address of a server that a channel leads to.
func (n *node) dnsServer() netip.Addr {
	addr, ok := n.address()
	if !ok {
		return netip.Addr{}
	}
	for _, never := range policy.NeverAcquired() {
		if never.Prefix.Contains(addr) {
			n.rejectAs(addr.String(), fmt.Sprintf("an address that a channel can lead to, not one of %s (%s)", never.Prefix, never.Reason))
			return netip.Addr{}
		}
	}
	return addr
}
