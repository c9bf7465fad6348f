package edge

import (
	"fmt"
	"net/http"
)

// refusal is the answer to a request that becomes no flow.
type refusal struct {
	status int    // HTTP
	reason string // label of bpfacq_edge_flows_total
	proxy  string // error of the Proxy-Status field, RFC 9209 section 2.3
	text   string // for people; names what was asked, nothing of the network behind
}

func (r *refusal) Error() string { return r.text }

// Reasons, one for each way a CONNECT can end before it carries bytes.
const (
	reasonAllowed      = "allowed"
	reasonBadAuthority = "bad-authority"
	reasonToken        = "token"
	reasonNotAllowed   = "not-allowed"
	reasonProtected    = "protected"
	reasonName         = "name"
	reasonDial         = "dial"
	reasonTimeout      = "timeout"
	reasonLimit        = "limit"
	reasonGone         = "gone"
)

func badAuthority(authority string) *refusal {
	return &refusal{http.StatusBadRequest, reasonBadAuthority, "http_request_error",
		fmt.Sprintf("read authority %q: want host:port, IPv6 in brackets", authority)}
}

func notAllowed(authority string) *refusal {
	return &refusal{http.StatusForbidden, reasonNotAllowed, "http_request_denied",
		fmt.Sprintf("connect to %q: not an allowed destination", authority)}
}

func protected(authority, why string) *refusal {
	return &refusal{http.StatusForbidden, reasonProtected, "destination_ip_prohibited",
		fmt.Sprintf("connect to %q: protected destination: %s", authority, why)}
}

func unresolved(authority string) *refusal {
	return &refusal{http.StatusBadGateway, reasonName, "dns_error",
		fmt.Sprintf("connect to %q: name has no address", authority)}
}

func unresolvedInTime(authority string) *refusal {
	return &refusal{http.StatusGatewayTimeout, reasonTimeout, "dns_timeout",
		fmt.Sprintf("connect to %q: name not resolved in time", authority)}
}

func undialed(authority, proxy, why string) *refusal {
	return &refusal{http.StatusBadGateway, reasonDial, proxy,
		fmt.Sprintf("connect to %q: %s", authority, why)}
}

func undialedInTime(authority string) *refusal {
	return &refusal{http.StatusGatewayTimeout, reasonTimeout, "connection_timeout",
		fmt.Sprintf("connect to %q: no answer in time", authority)}
}

func wrongToken() *refusal {
	return &refusal{http.StatusProxyAuthRequired, reasonToken, "http_request_denied",
		"present the bearer token in Proxy-Authorization"}
}

func overLimit() *refusal {
	return &refusal{http.StatusServiceUnavailable, reasonLimit, "connection_limit_reached",
		"too many flows"}
}

// gone is the refusal that nobody reads: the client left during the dial.
func gone() *refusal {
	return &refusal{http.StatusBadGateway, reasonGone, "connection_terminated", "client left"}
}
