package edge

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Allow is the list of destinations that flows may reach. A destination that
// no rule covers is refused, so the empty list refuses all.
//
// A rule names a host and its ports, and may name a protocol; without one it
// covers both:
//
//	rule    = host ":" ports [ "/" ( "tcp" | "udp" ) ]
//	host    = "*" | name | "*." name | address | prefix | "[" ( address | prefix ) "]"
//	ports   = "*" | range *( "," range )
//	range   = port [ "-" port ]
//
// IPv6 stands in brackets, the prefix length inside: "[2001:db8::/32]:443".
// "*" covers every name and address; "*.corp.example" every name below
// corp.example, at any depth, and not corp.example itself. Names compare
// without regard to case.
//
// A name rule covers its names whatever they resolve to; an address rule also
// covers a name, for those of its addresses that lie inside. No rule covers a
// protected address.
type Allow struct {
	rules []allowRule
}

type allowRule struct {
	any    bool
	name   string       // exact, lower case
	suffix string       // ".corp.example", lower case
	prefix netip.Prefix // IPv4 is never IPv4-mapped
	ports  []policy.PortRange
	only   protocol // empty for all
}

// protocol is that of a flow, in the letters of rules and metrics.
type protocol string

const (
	tcp protocol = "tcp"
	udp protocol = "udp"
)

// RuleError says where a rule of the list breaks the grammar of [Allow].
type RuleError struct {
	Index  int    // of the rule in the list, from 0
	Rule   string // as given
	Column int    // in bytes, from 1
	Want   string
}

// Error names the rule, the column and what is wanted there.
func (e *RuleError) Error() string {
	return fmt.Sprintf("parse allow rule %d %q: column %d: want %s", e.Index, e.Rule, e.Column, e.Want)
}

// ParseAllow reads rules. Its error is a [*RuleError].
func ParseAllow(rules []string) (*Allow, error) {
	a := &Allow{rules: make([]allowRule, 0, len(rules))}
	for i, text := range rules {
		rule, at, want := parseRule(text)
		if want != "" {
			return nil, &RuleError{Index: i, Rule: text, Column: at + 1, Want: want}
		}
		a.rules = append(a.rules, rule)
	}
	return a, nil
}

// parseRule returns the rule, or the offset of what is wrong with what was
// wanted there.
func parseRule(text string) (rule allowRule, at int, want string) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return rule, len(text), `":" and ports`
	}
	if want := rule.parseHost(text[:colon]); want != "" {
		return rule, 0, want
	}
	ports, only, named := strings.Cut(text[colon+1:], "/")
	rule.only = protocol(only)
	if named && rule.only != tcp && rule.only != udp {
		return rule, len(text) - len(only), `"tcp" or "udp"`
	}
	at, want = rule.parsePorts(ports)
	return rule, colon + 1 + at, want
}

func (r *allowRule) parseHost(host string) (want string) {
	const wanted = `"*", a name, "*." and a name, an address or a prefix, IPv6 in brackets`
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return wanted
		}
	} else if strings.Contains(host, ":") {
		return wanted
	}
	if prefix, ok := parsePrefix(inner); ok {
		if prefix.Addr().Is6() != bracketed {
			return wanted
		}
		if prefix != prefix.Masked() {
			return fmt.Sprintf("a prefix without host bits, such as %q", prefix.Masked())
		}
		r.prefix = prefix
		return ""
	}
	switch name, below := strings.CutPrefix(host, "*."); {
	case host == "*":
		r.any = true
	case !validName(name):
		return wanted
	case below:
		r.suffix = "." + strings.ToLower(name)
	default:
		r.name = strings.ToLower(name)
	}
	return ""
}

func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, !p.Addr().Is4In6()
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

func (r *allowRule) parsePorts(text string) (at int, want string) {
	if text == "*" {
		r.ports = []policy.PortRange{policy.AllPorts()}
		return 0, ""
	}
	for item := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(item, "-")
		if !ranged {
			high = low
		}
		first, ok := parsePort(low)
		if !ok {
			return at, "a port from 1 to 65535"
		}
		last, ok := parsePort(high)
		if !ok {
			return at + len(low) + 1, "a port from 1 to 65535"
		}
		if last < first {
			return at + len(low) + 1, fmt.Sprintf("a port from %d to 65535", first)
		}
		r.ports = append(r.ports, policy.PortRange{First: first, Last: last})
		at += len(item) + 1
	}
	return 0, ""
}

// parsePort reads decimal digits alone: no sign, no leading zero.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && s[0] >= '1' && s[0] <= '9'
}

// allowsName reports whether a rule covers the name, which is in lower case,
// whatever its addresses.
func (a *Allow) allowsName(name string, port uint16, p protocol) bool {
	return slices.ContainsFunc(a.rules, func(r allowRule) bool {
		match := r.any || name == r.name || r.suffix != "" && strings.HasSuffix(name, r.suffix)
		return match && r.allowsPort(port, p)
	})
}

// allowsAddr reports whether a rule covers the address.
func (a *Allow) allowsAddr(addr netip.Addr, port uint16, p protocol) bool {
	return slices.ContainsFunc(a.rules, func(r allowRule) bool {
		return (r.any || r.prefix.Contains(addr)) && r.allowsPort(port, p)
	})
}

func (r *allowRule) allowsPort(port uint16, p protocol) bool {
	if r.only != "" && r.only != p {
		return false
	}
	return slices.ContainsFunc(r.ports, func(ports policy.PortRange) bool { return ports.Contains(port) })
}
