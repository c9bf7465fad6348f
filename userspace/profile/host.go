package profile

import (
	"net/netip"
	"net/url"
	"strings"
)

// hostName reads a host name or a textual address and returns it in lower case
// and without the trailing dot; addresses come back in their shortest form.
func (n *node) hostName() string {
	s, ok := n.str()
	if !ok {
		return ""
	}
	if host, ok := canonicalHost(s); ok {
		return host
	}
	n.reject("a host name or an address, without a port")
	return ""
}

func canonicalHost(s string) (string, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap().String(), addr.Zone() == ""
	}
	return domain(s)
}

// domain returns a DNS name in lower case and without the trailing dot, or
// false if it is none (RFC 1035, with the underscore of RFC 8552).
func domain(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInLabel) {
			return "", false
		}
	}
	return s, true
}

func notInLabel(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// suffix reads a DNS suffix, with or without its leading dot.
func (n *node) suffix() string {
	s, ok := n.str()
	if !ok {
		return ""
	}
	if name, ok := domain(strings.TrimPrefix(s, ".")); ok {
		return name
	}
	n.reject("a DNS suffix")
	return ""
}

// httpURL reads an absolute http or https URL.
func (n *node) httpURL() string {
	s, ok := n.str()
	if !ok {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		n.reject("an absolute http or https URL")
		return ""
	}
	return s
}
