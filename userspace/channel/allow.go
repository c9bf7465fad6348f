package channel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// errPattern says that a pattern of an allow-list has no meaning.
var errPattern = errors.New(`want a host name, "*." and a domain, an address or a CIDR`)

// AllowList says which edges may be used. A profile cannot widen it, so that a
// profile that somebody has tampered with cannot send tokens elsewhere.
type AllowList struct {
	names    map[string]bool // exact, in lower case
	domains  []string        // ".example.com" for "*.example.com"
	prefixes []netip.Prefix
}

// ParseAllowList reads patterns: a host name, "*.example.com" for every name
// below that domain, an address, or a CIDR. The error names the pattern.
func ParseAllowList(patterns []string) (*AllowList, error) {
	l := &AllowList{names: make(map[string]bool)}
	for _, pattern := range patterns {
		if err := l.add(strings.ToLower(strings.TrimSuffix(pattern, "."))); err != nil {
			return nil, fmt.Errorf("parse pattern %q: %w", pattern, err)
		}
	}
	return l, nil
}

func (l *AllowList) add(pattern string) error {
	if prefix, err := netip.ParsePrefix(pattern); err == nil {
		l.prefixes = append(l.prefixes, prefix.Masked())
		return nil
	}
	if addr, err := netip.ParseAddr(pattern); err == nil {
		addr = addr.Unmap()
		l.prefixes = append(l.prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	domain, wild := strings.CutPrefix(pattern, "*.")
	if domain == "" || strings.ContainsAny(domain, "*/: \t") || strings.HasPrefix(domain, ".") || strings.Contains(domain, "..") {
		return errPattern
	}
	if wild {
		l.domains = append(l.domains, "."+domain)
	} else {
		l.names[domain] = true
	}
	return nil
}

// Allows reports whether a host, a name or a textual address, is on the list.
func (l *AllowList) Allows(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		for _, prefix := range l.prefixes {
			if prefix.Contains(addr.Unmap()) {
				return true
			}
		}
		return false
	}
	if l.names[host] {
		return true
	}
	for _, domain := range l.domains {
		if len(host) > len(domain) && strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}
