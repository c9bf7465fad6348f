package control

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// ParseFlow reads the flow that a person asks about: a protocol, "tcp" or
// "udp", and a destination, HOST:PORT, whose host is a name, an IPv4 address
// or an IPv6 address in brackets. Its error says how to write what was meant.
func ParseFlow(protocol, destination string) (policy.Flow, error) {
	var f policy.Flow
	switch protocol {
	case "tcp":
		f.Protocol = policy.TCP
	case "udp":
		f.Protocol = policy.UDP
	default:
		return policy.Flow{}, fmt.Errorf("parse protocol %q, want tcp or udp", protocol)
	}
	host, port, err := splitDestination(destination)
	if err != nil {
		return policy.Flow{}, fmt.Errorf("parse destination %q: %w", destination, err)
	}
	f.Port = port
	if f.Addr, err = netip.ParseAddr(host); err == nil {
		if f.Addr.Zone() != "" {
			return policy.Flow{}, fmt.Errorf("parse destination %q: want an address without zone", destination)
		}
		f.Addr = f.Addr.Unmap()
		return f, nil
	}
	if f.Name, err = hostName(host); err != nil {
		return policy.Flow{}, fmt.Errorf("parse destination %q: %w", destination, err)
	}
	return f, nil
}

// splitDestination takes HOST:PORT apart. What people forget is the port, and
// the brackets of IPv6.
func splitDestination(destination string) (host string, port uint16, err error) {
	if strings.Contains(destination, "://") {
		return "", 0, fmt.Errorf("want HOST:PORT, not a URL")
	}
	if addr, err := netip.ParseAddr(destination); err == nil {
		if addr.Is4() {
			return "", 0, fmt.Errorf(`want a port, as in "%s:443"`, addr)
		}
		return "", 0, fmt.Errorf(`want IPv6 in brackets and a port, as in "[%s]:443"`, addr)
	}
	host, text, err := net.SplitHostPort(destination)
	switch {
	case err != nil && strings.Count(destination, ":") > 1:
		return "", 0, fmt.Errorf(`want IPv6 in brackets and a port, as in "[2001:db8::1]:443"`)
	case err != nil || host == "":
		return "", 0, fmt.Errorf("want HOST:PORT")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q, want 1 to 65535", text)
	}
	return host, uint16(n), nil
}

// hostName checks a name and returns it in lower case without its final dot.
func hostName(host string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if len(name) > 253 {
		return "", fmt.Errorf("host name of %d bytes, want at most 253", len(name))
	}
	last := ""
	for last = range strings.SplitSeq(name, ".") {
		if last == "" || len(last) > 63 || strings.ContainsFunc(last, notHostRune) {
			return "", fmt.Errorf("host %q, want an address or a host name", host)
		}
	}
	if strings.Trim(last, "0123456789") == "" {
		return "", fmt.Errorf("host %q, want four numbers from 0 to 255 for an IPv4 address", host)
	}
	return name, nil
}

func notHostRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	}
	return true
}
