package e2e

import (
	"fmt"
	"strings"
)

// packetRule is a rule of a profile for the packet path.
func packetRule(id, action, hardening, protocol, ips string, more ...string) string {
	var list []string
	for ip := range strings.FieldsSeq(ips) {
		list = append(list, fmt.Sprintf("%q", ip))
	}
	return fmt.Sprintf(`{"id":%q,"channelId":%q,"order":ORDER,"action":%q,"hardening":%q%s,`+
		`"matchingCriteria":{"address":{"ips":[%s]},"protocol":%q}}`,
		id, sampleChannel, action, hardening, strings.Join(more, ""), strings.Join(list, ","), protocol)
}

// The networks of the packet path's rules.
const (
	openNetworks   = "192.168.11.0/24 2001:db8:11::/64" // may go direct if they have to
	closedNetworks = "192.168.12.0/24 2001:db8:12::/64" // may not
	quicNetworks   = "192.168.13.0/24 2001:db8:13::/64" // are carried by TCP alone
	wideNetwork    = "192.168.64.0/18"                  // has room for thousands of destinations
)

// packetRules are what most tests of the packet path need.
func packetRules() []string {
	return []string{
		packetRule("open", "Tunnel", "Bypass", "Any", openNetworks),
		packetRule("closed", "Tunnel", "Block", "Any", closedNetworks),
		packetRule("no-quic", "Tunnel", "Block", "Tcp", quicNetworks, `,"quic":"reject"`),
		packetRule("wide", "Tunnel", "Block", "Udp", wideNetwork),
	}
}

// packetProfile is a profile with one edge, that of the sample, and rules in their
// order.
func packetProfile(rules ...string) string {
	for i := range rules {
		rules[i] = strings.Replace(rules[i], "ORDER", fmt.Sprint(i+1), 1)
	}
	return fmt.Sprintf(`{"policy":{"id":"packets","channels":[{"id":%q,"name":"Private",`+
		`"edgesSettings":{"primaryEdges":[{"edgeAddress":%q,"edgePort":443,"isSecure":true}]}}],"rules":[%s]},`+
		`"configuration":{"edsSettings":{"pollingIntervalInSeconds":10},"managementService":{"hostAcquisitionInternalSubNet":{"subnetAddress":"6.6.0.0","subnetMask":"255.255.0.0"}}}}`,
		sampleChannel, sampleEdge, strings.Join(rules, ","))
}
