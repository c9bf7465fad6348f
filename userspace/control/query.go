package control

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Question is a DNS query that a person asks.
type Question struct {
	Name   string         // in the form of [policy.CanonicalName]; empty is the root
	Type   string         // in upper case: "A", "AAAA", …, or "TYPE65280" (RFC 3597)
	Server netip.AddrPort // that is asked; invalid: one of the host's
}

// Trace is a query that the agent made on behalf of a person, and what became
// of it: the answer is the one that an application would get.
type Trace struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"`             // as asked, in lower case, without its final dot
	Type   string `json:"type"`             // "A", "AAAA", …, or "TYPE65280"
	Server string `json:"server,omitempty"` // that was meant to answer: address:port
	Hops   []Hop  `json:"hops"`             // in the order of time

	// Code is the answer's RCODE by its IANA name, such as "NOERROR" or
	// "NXDOMAIN"; empty when there is no answer, and Cause says why.
	Code    string   `json:"code,omitempty"`
	Records []string `json:"records"` // of the answer section: RFC 1035, section 5.1
	Cause   string   `json:"cause,omitempty"`

	Took float64 `json:"seconds"`
}

// Hop is one step that a query took.
type Hop struct {
	// Kind says what was done, in a word: "judge", "private", "ask",
	// "assign", "rewrite" or "pass".
	Kind string `json:"kind"`
	Text string `json:"text"` // for people: why, and what came of it

	// Of a hop that judged a name: identifiers.
	Rule    string `json:"rule,omitempty"`
	Channel string `json:"channel,omitempty"`

	// Of a hop that asked a server.
	Server  string   `json:"server,omitempty"`  // address:port
	Network string   `json:"network,omitempty"` // "udp" or "tcp"
	Way     string   `json:"way,omitempty"`
	Code    string   `json:"code,omitempty"`    // RCODE of its answer
	Records []string `json:"records,omitempty"` // of its answer section, or what they were rewritten to
	Cause   string   `json:"cause,omitempty"`   // why there was no answer

	Took float64 `json:"seconds"`
}

// ParseQuestion reads a query: a name or an address, whose names are then asked
// for; a type, by default A, or PTR of an address; and a server, ADDRESS or
// ADDRESS:PORT, or an empty text for one of the host's. Whether there is such a
// type, the agent knows. Its error says how to write what was meant.
func ParseQuestion(name, kind, server string) (Question, error) {
	q := Question{Type: strings.ToUpper(kind)}
	addr, err := netip.ParseAddr(name)
	switch {
	case err == nil && addr.Zone() == "" && (q.Type == "" || q.Type == "PTR"):
		q.Name, q.Type = reverseName(addr.Unmap()), "PTR"
	case name != ".":
		var ok bool
		if q.Name, ok = policy.CanonicalName(name); !ok {
			return Question{}, fmt.Errorf("parse name %q, want labels of 1 to 63 bytes between dots, 253 in all", name)
		}
	}
	if q.Type == "" {
		q.Type = "A"
	}
	if strings.ContainsFunc(q.Type, notTypeRune) {
		return Question{}, fmt.Errorf("parse type %q, want one such as A, AAAA or TYPE65", kind)
	}
	if q.Server, err = parseServer(server); err != nil {
		return Question{}, err
	}
	return q, nil
}

func notTypeRune(r rune) bool {
	return !('A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-')
}

// parseServer reads an address with or without a port. A zone is of no use: which
// link a query leaves by is not said here.
func parseServer(server string) (netip.AddrPort, error) {
	if server == "" {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(server)
	if err != nil {
		var addr netip.Addr
		addr, err = netip.ParseAddr(server)
		at = netip.AddrPortFrom(addr, 53)
	}
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("parse server %q, want an address, as in 192.0.2.53 or [2001:db8::53]:53", server)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// reverseName is where the names of an address stand: RFC 1035 section 3.5 and
// RFC 3596 section 2.5.
func reverseName(addr netip.Addr) string {
	var b strings.Builder
	bytes := addr.AsSlice()
	for i := len(bytes) - 1; i >= 0; i-- {
		if addr.Is4() {
			b.WriteString(strconv.Itoa(int(bytes[i])) + ".")
		} else {
			fmt.Fprintf(&b, "%x.%x.", bytes[i]&0xf, bytes[i]>>4)
		}
	}
	if addr.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}
