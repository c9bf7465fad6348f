package capsule

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// template is what paths of requests begin with: the default of RFC 9298 section
// 3, "/.well-known/masque/udp/{target_host}/{target_port}/".
const template = "/.well-known/masque/udp/"

var errPath = errors.New("path is not of CONNECT-UDP")

// Path is the path of a request for a host, which is a name or a textual address,
// and a port. The colons of IPv6 are encoded (RFC 9298 section 3.1).
func Path(host string, port uint16) string {
	encoded := strings.ReplaceAll(url.PathEscape(host), ":", "%3A")
	return template + encoded + "/" + strconv.Itoa(int(port)) + "/"
}

// ParsePath returns the "host:port" that a path asks for. It says nothing of
// whether the host, which is not empty, is one.
func ParsePath(path string) (authority string, err error) {
	rest, ok := strings.CutPrefix(path, template)
	if !ok {
		return "", errPath
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 || parts[2] != "" {
		return "", errPath
	}
	host, err := url.PathUnescape(parts[0])
	if err != nil || host == "" {
		return "", errPath
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil || port == 0 || parts[1][0] == '+' {
		return "", errPath
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() != "" {
		return "", errPath // a scope of another host (RFC 9298 section 3.1)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}
