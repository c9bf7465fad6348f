package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	maxSocketPath  = 107 // sun_path without its terminating zero, unix(7)
	maxConnections = 256
	maxUplinks     = 64
	maxUDPFlows    = 1 << 20
	maxDeviceName  = 15 // IFNAMSIZ without its terminating zero
)

// check finds values that have the right type and make no sense.
func (c *Config) check(entries []entry) Problems {
	ck := checker{entries: entries}
	ck.path("profile", c.Profile)
	ck.path("state-dir", c.StateDir)
	ck.optionalPath("kernel.cgroup", c.Kernel.Cgroup)
	ck.path("kernel.pins", c.Kernel.Pins)
	ck.between("kernel.lease", c.Kernel.Lease, time.Second, time.Minute)
	ck.edges(&c.Edges)
	ck.pool6("fqdn.synthetic-ipv6", c.FQDN.SyntheticIPv6)
	ck.packet(c)
	ck.relay(&c.Relay)
	ck.path("control.socket", c.Control.Socket)
	if len(c.Control.Socket) > maxSocketPath {
		ck.reject("control.socket", c.Control.Socket, fmt.Sprintf("at most %d bytes, the limit of a unix socket", maxSocketPath))
	}
	if c.Metrics.Listen != "" {
		ck.addrPort("metrics.listen", c.Metrics.Listen)
	}
	ck.oneOf("log.format", c.Log.Format, "auto", "text", "json", "journal")
	slices.SortStableFunc(ck.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ck.problems
}

// checker collects problems at the places where their keys stand.
type checker struct {
	entries  []entry
	problems Problems
}

func (ck *checker) reject(key, value, want string) {
	p := Problem{Key: key, Text: fmt.Sprintf("%q, want %s", value, want)}
	for _, e := range ck.entries {
		if keyPath(e.path) == key {
			p.Line, p.Column = e.line, e.column
		}
	}
	ck.problems = append(ck.problems, p)
}

func (ck *checker) path(key, value string) {
	if !filepath.IsAbs(value) {
		ck.reject(key, value, "an absolute path")
	}
}

func (ck *checker) optionalPath(key, value string) {
	if value != "" {
		ck.path(key, value)
	}
}

func (ck *checker) between(key string, value Duration, low, high time.Duration) {
	if d := time.Duration(value); d < low || d > high {
		ck.reject(key, value.String(), fmt.Sprintf("a duration from %v to %v", low, high))
	}
}

// oneOf checks a word of a list of at least two.
func (ck *checker) oneOf(key, value string, words ...string) {
	if slices.Contains(words, value) {
		return
	}
	last := len(words) - 1
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = strconv.Quote(word)
	}
	ck.reject(key, value, strings.Join(quoted[:last], ", ")+" or "+quoted[last])
}

func (ck *checker) number(key string, value, low, high int) {
	if value < low || value > high {
		ck.reject(key, strconv.Itoa(value), fmt.Sprintf("%d to %d", low, high))
	}
}

func (ck *checker) addrPort(key, value string) (netip.AddrPort, bool) {
	addr, err := netip.ParseAddrPort(value)
	if err != nil {
		ck.reject(key, value, `an address and a port such as "127.0.0.1:9100" or "[::1]:9100"`)
	}
	return addr, err == nil
}

func (ck *checker) edges(e *Edges) {
	for _, pattern := range e.Allow {
		if !validPattern(pattern) {
			ck.reject("edges.allow", pattern, `a host name, "*." and a host name, an address, or a prefix`)
		}
	}
	ck.optionalPath("edges.ca-file", e.CAFile)
	ck.optionalPath("edges.token-file", e.TokenFile)
	ck.number("edges.connections", e.Connections, 0, maxConnections)
	ck.oneOf("edges.transport", e.Transport, TransportAuto, TransportHTTP3, TransportHTTP2, TransportHTTP1)
	for _, name := range slices.Sorted(maps.Keys(e.Addresses)) {
		key, value := keyPath([]string{"edges", "addresses", name}), e.Addresses[name]
		if !validHost(name) {
			ck.reject(key, name, "the name of an edge on the left")
		}
		_, addrErr := netip.ParseAddr(value)
		_, pairErr := netip.ParseAddrPort(value)
		if addrErr != nil && pairErr != nil {
			ck.reject(key, value, `an address such as "192.0.2.1", or with a port, "192.0.2.1:443"`)
		}
	}
}

// pool6 checks that synthetic IPv6 addresses are nobody's: of fd00::/8, which RFC
// 4193 leaves to each site. Below 64 bits a prefix is a site's and not a subnet;
// above 112 it has too few addresses.
func (ck *checker) pool6(key, value string) {
	if value == "" {
		return
	}
	prefix, err := netip.ParsePrefix(value)
	if err != nil || prefix != prefix.Masked() || !prefix.Addr().Is6() || prefix.Addr().As16()[0] != 0xfd ||
		prefix.Bits() < 64 || prefix.Bits() > 112 {
		ck.reject(key, value, `a prefix of fd00::/8 with 64 to 112 bits, such as "fd6b:7066:6163::/64"`)
	}
}

// packet checks the packet path, which needs the agent's own relay.
func (ck *checker) packet(c *Config) {
	const key = "packet.uplinks"
	p := &c.Packet
	for _, name := range p.Uplinks {
		switch {
		case name == UplinksAuto && len(p.Uplinks) > 1:
			ck.reject(key, name, "it alone, or names of devices")
		case !validDevice(name):
			ck.reject(key, name, `the name of a device, or "auto" alone`)
		}
	}
	if len(p.Uplinks) > maxUplinks {
		ck.reject(key, strconv.Itoa(len(p.Uplinks))+" devices", fmt.Sprintf("at most %d", maxUplinks))
	}
	ck.oneOf("packet.containers", p.Containers, ContainersUplink, ContainersOff)
	ck.between("packet.udp-idle", p.UDPIdle, time.Second, time.Hour)
	ck.between("packet.udp-stream-idle", p.UDPStreamIdle, time.Second, time.Hour)
	if p.UDPStreamIdle < p.UDPIdle {
		ck.reject("packet.udp-stream-idle", p.UDPStreamIdle.String(), "no less than udp-idle")
	}
	ck.number("packet.udp-flows", p.UDPFlows, 1, maxUDPFlows)
}

// validDevice accepts what the kernel takes for the name of a device.
func validDevice(name string) bool {
	return name != "" && len(name) <= maxDeviceName && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) })
}

// relay checks that a stock transparent proxy gets all that it needs: flows, which
// the kernel sends to 127.0.0.1, and an answer to SO_ORIGINAL_DST.
func (ck *checker) relay(r *Relay) {
	ck.between("relay.drain", r.Drain, 0, time.Hour)
	ck.optionalPath("relay.external-cgroup", r.ExternalCgroup)
	if r.ExternalListener != "" {
		addr, ok := ck.addrPort("relay.external-listener", r.ExternalListener)
		if ok && (addr.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr.Port() == 0) {
			ck.reject("relay.external-listener", r.ExternalListener, `"127.0.0.1:" and a port above 0`)
		}
	}
	if (r.ExternalListener == "") != (r.ExternalCgroup == "") {
		ck.reject("relay.external-cgroup", r.ExternalCgroup, "external-listener and external-cgroup both, or neither")
	}
}

func validPattern(s string) bool {
	if _, err := netip.ParsePrefix(s); err == nil {
		return true
	}
	return validHost(strings.TrimPrefix(s, "*."))
}

// validHost accepts textual addresses and host names in the letters, digits
// and hyphens of RFC 1123, with underscores as found in practice.
func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notBare) {
			return false
		}
	}
	return true
}
