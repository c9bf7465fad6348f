package edge

import (
	"net/netip"
	"strings"
)

// authority is where a CONNECT asks to go: a name or an address, and a port.
type authority struct {
	text string     // as the client wrote it
	name string     // lower case, without the trailing dot; empty for an address
	addr netip.Addr // never IPv4-mapped; invalid for a name
	port uint16     // never 0
}

// parseAuthority reads the authority form of RFC 9112 section 3.2.3:
// host ":" port, IPv6 in brackets.
func parseAuthority(text string) (authority, bool) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return authority{}, false
	}
	host := text[:colon]
	port, ok := parsePort(text[colon+1:])
	if !ok {
		return authority{}, false
	}
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
			return authority{}, false
		}
		return authority{text: text, addr: addr.Unmap(), port: port}, true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return authority{text: text, addr: addr, port: port}, addr.Is4()
	}
	name := strings.TrimSuffix(host, ".")
	if !validName(name) {
		return authority{}, false
	}
	return authority{text: text, name: strings.ToLower(name), port: port}, true
}

// validName reports whether s is a host name in the letters, digits and
// hyphens of RFC 1123, with underscores as found in practice. A name whose last
// label is a number is none: some resolvers read "127.1" or "0x7f" as addresses.
func validName(s string) bool {
	if len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		last = label
	}
	digits := strings.TrimLeft(last, "0123456789")
	return digits != "" && (digits[0] != 'x' && digits[0] != 'X' || last[0] != '0')
}

func notInName(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}
