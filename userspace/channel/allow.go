package channel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// AllowList says which edges may be used. A profile cannot widen it, so that a
// profile that somebody has tampered with cannot send tokens elsewhere. The
// zero value allows none.
type AllowList struct {
	names    map[string]bool // exact, in lower case
	domains  []string        // ".example.com" for "*.example.com"
	prefixes []netip.Prefix
}

// ParseAllowList reads patterns: a host name, "*.example.com" for every name
// below that domain but not the domain itself, an address, or a CIDR. Names are
// those of DNS, so international ones are written in Punycode. The error names
// the pattern.
func ParseAllowList(patterns []string) (*AllowList, error) {
	l := &AllowList{names: make(map[string]bool)}
	for _, pattern := range patterns {
		if !l.add(pattern) {
			return nil, fmt.Errorf("parse pattern %q: %w", pattern, errPattern)
		}
	}
	return l, nil
}

// add reports whether the pattern means something.
func (l *AllowList) add(pattern string) bool {
	if prefix, err := netip.ParsePrefix(pattern); err == nil {
		l.prefixes = append(l.prefixes, prefix.Masked())
		return !prefix.Addr().Is4In6() // which no address would match
	}
	if addr, err := netip.ParseAddr(pattern); err == nil {
		addr = addr.Unmap()
		l.prefixes = append(l.prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		return addr.Zone() == ""
	}
	domain, wild := strings.CutPrefix(pattern, "*.")
	name, ok := canonicalName(domain)
	if wild {
		l.domains = append(l.domains, "."+name)
	} else {
		l.names[name] = true
	}
	return ok
}

// Allows reports whether a host, a name or a textual address, is on the list.
// What is neither is not, and no address with a zone is.
func (l *AllowList) Allows(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
	}
	name, ok := canonicalName(host)
	if !ok {
		return false
	}
	return l.names[name] || slices.ContainsFunc(l.domains, func(domain string) bool {
		return strings.HasSuffix(name, domain)
	})
}

// canonicalName returns a DNS name in lower case without its trailing dot, or
// false if it is none (RFC 1035, with the underscore of RFC 8552). A name whose
// last label is a number is none: some resolvers take it for an address.
func canonicalName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return "", false
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInLabel) {
			return "", false
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return "", false
	}
	return strings.ToLower(name), true
}

func notInLabel(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}
