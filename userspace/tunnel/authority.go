package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// request is what a CONNECT asks.
type request struct {
	authority     string
	authorization string // value of Proxy-Authorization; empty for none
	udp           bool   // CONNECT-UDP, RFC 9298
}

// path is the :path of a CONNECT-UDP to the authority.
func (r request) path() string {
	host, port, _ := net.SplitHostPort(r.authority)
	n, _ := strconv.ParseUint(port, 10, 16)
	return capsule.Path(host, uint16(n))
}

// checkAuthority accepts "host:port" as RFC 9110 section 9.3.6 wants it in a
// CONNECT. It is strict about the host, because over HTTP/1.1 the authority is
// written into a line of text.
func checkAuthority(authority string) error {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		return fmt.Errorf("parse authority %q: %w", authority, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
		return fmt.Errorf("parse authority %q: port %q is not 1 to 65535", authority, port)
	}
	if strings.HasPrefix(authority, "[") {
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return fmt.Errorf("parse authority %q: %q is not an IPv6 address", authority, host)
		}
		return nil
	}
	if host == "" || len(host) > 255 || strings.ContainsFunc(host, notInName) {
		return fmt.Errorf("parse authority %q: %q is not a host name", authority, host)
	}
	return nil
}

// notInName reports whether a host name on the wire cannot hold r. The
// underscore is no host name's, but service names have it and resolve.
func notInName(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
}
