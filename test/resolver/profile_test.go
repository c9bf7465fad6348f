package resolver

import (
	"encoding/json"
	"testing"
)

// Ids of the rules.
const (
	ruleOpen  = "open"
	ruleCorp  = "corp"
	ruleVault = "vault"
)

// profileText tunnels names below corp.example to the ports of the web and SSH,
// falling back to their original addresses, but for open.corp.example, and names
// below vault.example, which must not be reached without an edge.
func profileText(t testing.TB) []byte {
	t.Helper()
	type object = map[string]any
	rule := func(order int, id, action, hardening, pattern string, ports ...object) object {
		return object{
			"id": id, "channelId": "private", "order": order, "action": action, "hardening": hardening,
			"matchingCriteria": object{
				"address": object{"ips": []string{}, "fqdns": []string{pattern}},
				"ports":   ports, "protocol": "Tcp",
			},
		}
	}
	port := func(n int) object { return object{"start": n, "end": n} }
	text, err := json.Marshal(object{
		"policy": object{
			"id": "resolver",
			"channels": []object{{
				"id": "private", "name": "Private",
				"edgesSettings": object{"primaryEdges": []object{
					{"edgeAddress": edgeName, "edgePort": 443, "isSecure": true},
				}},
			}},
			"rules": []object{
				rule(0, ruleOpen, "Bypass", "Bypass", `open\.corp\.example`, object{"start": 0, "end": 65535}),
				rule(1, ruleCorp, "Tunnel", "Bypass", `.+\.corp\.example`, port(22), port(80), port(443)),
				rule(2, ruleVault, "Tunnel", "Block", `.+\.vault\.example`, port(80)),
			},
			"privateDnsRules": []object{},
		},
		"configuration": object{"managementService": object{
			"hostAcquisitionInternalSubNet": object{"subnetAddress": 101056512, "subnetMask": 4294901760}, // 6.6.0.0/16
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
