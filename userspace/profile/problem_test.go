package profile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// valid is a profile in which every fragment that a row replaces occurs once.
const valid = `{
"policy": {"id": "p1", "tenantId": "t1",
 "channels": [
  {"id": "c1", "name": "Private", "edgesSettings": {
    "primaryEdges": [{"edgeAddress": "edge.example.com", "edgePort": 443, "isSecure": true}],
    "secondaryEdges": [{"edgeAddress": "192.0.2.1", "edgePort": 8443}]},
   "naasAuthorizationTokenContext": {"clientAppId": "app", "audienceScope": "scope", "clientRedirectUri": "uri"},
   "diagnosticUri": "https://probe.example.com/ping"},
  {"id": "c2", "edgesSettings": {"primaryEdges": [{"edgeAddress": "2001:db8::1", "edgePort": 1}]},
   "diagnosticUri": "http://192.0.2.7:81/"}],
 "rules": [
  {"id": "r1", "channelId": "c1", "order": 1.5, "action": "Tunnel", "hardening": "Block",
   "matchingCriteria": {"address": {
     "ips": [{"start": 167772160, "end": 167772161}, "10.1.0.0/16"],
     "fqdns": ["www\\.example\\.com"]},
    "ports": [{"start": 80, "end": 81}], "protocol": "Tcp"},
   "acquireIfUnresolved": false},
  {"id": "r2", "channelId": "c2", "order": 3, "action": "bypass", "hardening": "bypass",
   "matchingCriteria": {"address": {"ips": ["2001:db8::/32"]}}}],
 "privateDnsRules": [{"suffix": ".Corp.Example.", "dnsServerAddress": 101122046, "isSingleLabelSuffix": false}]},
"configuration": {
 "apsSettings": {"requestPollingIntervalInSeconds": 300},
 "flowHandler": {"graceTimeInMs": 3500},
 "userModeLogs": {"logSizeInMB": 2.0, "fileCount": 3, "directoryPath": "c:\naaslogs"},
 "managementService": {
  "hostAcquisitionInternalSubNet": {"subnetAddress": 101056512, "subnetMask": 4294901760},
  "policyUpdateFlushOsCache": false, "cacheAuthenticationToken": true,
  "authenticationCacheRefreshIntervalInSeconds": 20},
 "edsSettings": {"pollingIntervalInSeconds": 10}},
"settingsVersion": "s1", "controlPlanePoliciesVersion": "cp1", "apsContextData": "{}"
}`

// mutate replaces the one occurrence of old in valid.
func mutate(t *testing.T, old, new string) string {
	t.Helper()
	if n := strings.Count(valid, old); n != 1 {
		t.Fatalf("%q occurs %d times in the valid profile", old, n)
	}
	return strings.Replace(valid, old, new, 1)
}

func problems(t *testing.T, text string) []Problem {
	t.Helper()
	p, err := Parse(strings.NewReader(text))
	if err == nil {
		t.Fatalf("accepted: %+v", p.Policy)
	}
	if p != nil {
		t.Error("a profile and an error")
	}
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	return invalid.Problems
}

func TestValidProfileHasNoWarnings(t *testing.T) {
	p := mustParse(t, valid)
	diff(t, p.Warnings, []Warning(nil))
	diff(t, len(p.Policy.Rules), 2)
}

const (
	wantAddress = "an IPv4 address as a whole number from 0 to 4294967295, or an IPv4 or IPv6 address as text"
	wantItem    = "a range {start, end}, an address or a prefix"
	wantPort    = "a whole number from 0 to 65535"
	wantSeconds = "a whole number from 0 to 4294967295"
	wantMissing = "this field, which is required"
	wantHost    = "a host name or an address, without a port"
	wantURL     = "an absolute http or https URL"
	wantOnce    = "one field of this name"
	wantMask    = "a contiguous subnet mask that is not empty"

	ip0     = "/policy/rules/0/matchingCriteria/address/ips/0"
	ip1     = "/policy/rules/0/matchingCriteria/address/ips/1"
	fqdn    = "/policy/rules/0/matchingCriteria/address/fqdns/0"
	port0   = "/policy/rules/0/matchingCriteria/ports/0"
	edge0   = "/policy/channels/0/edgesSettings/primaryEdges/0"
	subnet0 = "/configuration/managementService/hostAcquisitionInternalSubNet"
	first   = `{"start": 167772160, "end": 167772161}`
	prefix  = `"10.1.0.0/16"`
	pattern = `"www\\.example\\.com"`

	privateRule = `{"suffix": ".Corp.Example.", "dnsServerAddress": 101122046, "isSingleLabelSuffix": false}`
	server0     = "/policy/privateDnsRules/0/dnsServerAddress"
)

func TestOneMistakeIsOneProblem(t *testing.T) {
	for _, test := range []struct {
		name, old, new       string
		pointer, value, want string
	}{
		// The envelope.
		{"no policy", `"policy": {`, `"polity": {`, "/policy", "nothing", wantMissing},
		{"policy of another type", `"privateDnsRules": [`, `"x": 1}, "policy": [], "y": {"z": [`, "/policy", "a list", wantOnce},
		{"field twice", `"tenantId": "t1"`, `"id": "t1"`, "/policy/id", `"t1"`, wantOnce},
		{"field twice, once escaped", `"tenantId": "t1"`, `"\u0069d": "t1"`, "/policy/id", `"t1"`, wantOnce},
		{"revision as number", `"s1"`, `7`, "/settingsVersion", "7", "a string"},
		{"context as object", `"{}"`, `{}`, "/apsContextData", "an object", "a string"},
		{"long id", `"p1"`, `"` + strings.Repeat("p", 129) + `"`, "/policy/id",
			`"` + strings.Repeat("p", 80) + `"…`, "at most 128 bytes"},
		{"field without a name", `"tenantId"`, `""`, "/policy", `a field named ""`, "names of 1 to 128 printable bytes"},
		{"field name with an escape sequence", `"tenantId"`, `"\u001b[31m"`, "/policy", `a field named "\x1b[31m"`,
			"names of 1 to 128 printable bytes"},
		{"too many fields", `"tenantId": "t1"`, `"x": {` + manyFields(5001) + `}`, "/policy/x", "an object", "at most 5000 fields"},
		{"nested too deeply", `"tenantId": "t1"`, `"deep": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40),
			"/policy/deep" + strings.Repeat("/0", 14), "a list", "at most 16 levels of nesting"},
		{"field twice in what is unknown", `"tenantId": "t1"`, `"x": [{"a/~b": 1, "a/~b": 2}]`, "/policy/x/0/a~1~0b", "2", wantOnce},

		// Channels.
		{"channel as string", `{"id": "c2", "edgesSettings": {"primaryEdges": [{"edgeAddress": "2001:db8::1", "edgePort": 1}]},
   "diagnosticUri": "http://192.0.2.7:81/"}`, `{"id": "c2", "edgesSettings": {}}, "c3"`, "/policy/channels/2", `"c3"`, "an object"},
		{"channel id twice", `"name": "Private"`, `"name": "Private", "edgesSettings": {}}, {"id": "c1", "name": "x"`,
			"/policy/channels/1/id", `"c1"`, "an id that no other channel has"},
		{"channel name as number", `"Private"`, `1`, "/policy/channels/0/name", "1", "a string"},
		{"no edges settings", `"id": "c2", "edgesSettings"`, `"id": "c2", "x"`, "/policy/channels/1/edgesSettings", "nothing", wantMissing},
		{"edges settings null", `"id": "c2", "edgesSettings"`, `"id": "c2", "edgesSettings": null, "x"`,
			"/policy/channels/1/edgesSettings", "null", "an object"},
		{"edge as string", `[{"edgeAddress": "2001:db8::1", "edgePort": 1}]`, `["192.0.2.1"]`,
			"/policy/channels/1/edgesSettings/primaryEdges/0", `"192.0.2.1"`, "an object"},
		{"edge with long label", `"edge.example.com"`, `"` + strings.Repeat("e", 64) + `.com"`, edge0 + "/edgeAddress",
			`"` + strings.Repeat("e", 64) + `.com"`, wantHost},
		{"edge without host", `"edgeAddress": "edge.example.com", `, ``, edge0 + "/edgeAddress", "nothing", wantMissing},
		{"edge with empty host", `"edge.example.com"`, `""`, edge0 + "/edgeAddress", `""`, wantHost},
		{"edge with port in host", `"edge.example.com"`, `"edge.example.com:443"`, edge0 + "/edgeAddress", `"edge.example.com:443"`, wantHost},
		{"edge as URL", `"edge.example.com"`, `"https://edge"`, edge0 + "/edgeAddress", `"https://edge"`, wantHost},
		{"edge with space", `"edge.example.com"`, `"edge .example"`, edge0 + "/edgeAddress", `"edge .example"`, wantHost},
		{"edge with empty label", `"edge.example.com"`, `"edge..com"`, edge0 + "/edgeAddress", `"edge..com"`, wantHost},
		{"edge with zone", `"2001:db8::1"`, `"fe80::1%eth0"`, "/policy/channels/1/edgesSettings/primaryEdges/0/edgeAddress",
			`"fe80::1%eth0"`, wantHost},
		{"edge without port", `, "edgePort": 443`, ``, edge0 + "/edgePort", "nothing", wantMissing},
		{"edge port zero", `443,`, `0,`, edge0 + "/edgePort", "0", "a whole number from 1 to 65535"},
		{"edge port too large", `443,`, `65536,`, edge0 + "/edgePort", "65536", "a whole number from 1 to 65535"},
		{"edge port as boolean", `443,`, `true,`, edge0 + "/edgePort", "true", "a whole number from 1 to 65535"},
		{"isSecure as string", `"isSecure": true`, `"isSecure": "true"`, edge0 + "/isSecure", `"true"`, "true or false"},
		{"isSecure as number", `"isSecure": true`, `"isSecure": 1`, edge0 + "/isSecure", "1", "true or false"},
		{"probe without scheme", `"https://probe.example.com/ping"`, `"probe.example.com/ping"`,
			"/policy/channels/0/diagnosticUri", `"probe.example.com/ping"`, wantURL},
		{"probe by ftp", `"https://probe`, `"ftp://probe`, "/policy/channels/0/diagnosticUri", `"ftp://probe.example.com/ping"`, wantURL},
		{"probe without host", `"http://192.0.2.7:81/"`, `"http://:81/"`, "/policy/channels/1/diagnosticUri", `"http://:81/"`, wantURL},
		{"probe with credentials", `"https://probe`, `"https://u:p@probe`, "/policy/channels/0/diagnosticUri",
			`"https://u:p@probe.example.com/ping"`, wantURL},
		{"token context as string", `{"clientAppId": "app", "audienceScope": "scope", "clientRedirectUri": "uri"}`, `"app"`,
			"/policy/channels/0/naasAuthorizationTokenContext", `"app"`, "an object"},
		{"token scope as number", `"scope"`, `1`, "/policy/channels/0/naasAuthorizationTokenContext/audienceScope", "1", "a string"},

		// Rules.
		{"rules as object", `"rules": [`, `"rules": {}, "x": [`, "/policy/rules", "an object", "a list"},
		{"rule as number", `"rules": [`, `"rules": [1,`, "/policy/rules/0", "1", "an object"},
		{"no rules", `"rules"`, `"Rules"`, "/policy/rules", "nothing", wantMissing},
		{"rule id twice", `"r2"`, `"r1"`, "/policy/rules/1/id", `"r1"`, "an id that no other rule has"},
		{"rule id empty", `"r1"`, `""`, "/policy/rules/0/id", `""`, "an id"},
		{"rule id of control characters", `"r1"`, `"\u0000\n"`, "/policy/rules/0/id", `"\x00\n"`, "an id"},
		{"rule id as number", `"r1"`, `1`, "/policy/rules/0/id", "1", "a string"},
		{"rule id null", `"r1"`, `null`, "/policy/rules/0/id", "null", "a string"},
		{"rule without id", `"id": "r1", `, ``, "/policy/rules/0/id", "nothing", wantMissing},
		{"rule id too long", `"r1"`, `"` + "x" + strings.Repeat("é", 64) + `"`, "/policy/rules/0/id",
			`"x` + strings.Repeat("é", 39) + `"…`, "at most 128 bytes"},
		{"unknown channel", `"channelId": "c1"`, `"channelId": "c9"`, "/policy/rules/0/channelId", `"c9"`, "the id of a channel of this profile"},
		{"unknown channel of a Bypass rule", `"channelId": "c2"`, `"channelId": "C2"`, "/policy/rules/1/channelId", `"C2"`,
			"the id of a channel of this profile"},
		{"Tunnel rule without channel", `"channelId": "c1", `, ``, "/policy/rules/0/channelId", "nothing", wantMissing},
		{"order missing", `"order": 1.5, `, ``, "/policy/rules/0/order", "nothing", wantMissing},
		{"order out of range", `1.5`, `1e999`, "/policy/rules/0/order", "1e999", "a number"},
		{"order NaN", `1.5`, `"NaN"`, "/policy/rules/0/order", `"NaN"`, "a number"},
		{"order infinite", `1.5`, `"Infinity"`, "/policy/rules/0/order", `"Infinity"`, "a number"},
		{"order in hexadecimal", `1.5`, `"0x1p3"`, "/policy/rules/0/order", `"0x1p3"`, "a number"},
		{"order with space", `1.5`, `" 1"`, "/policy/rules/0/order", `" 1"`, "a number"},
		{"order with decimal comma", `1.5`, `"1,5"`, "/policy/rules/0/order", `"1,5"`, "a number"},
		{"order empty", `1.5`, `""`, "/policy/rules/0/order", `""`, "a number"},
		{"action missing", `"action": "Tunnel", `, ``, "/policy/rules/0/action", "nothing", wantMissing},
		{"action unknown", `"Tunnel"`, `"Tunel"`, "/policy/rules/0/action", `"Tunel"`, `"Tunnel" or "Bypass"`},
		{"action as number", `"Tunnel"`, `1`, "/policy/rules/0/action", "1", `"Tunnel" or "Bypass"`},
		{"hardening unknown", `"Block"`, `"Allow"`, "/policy/rules/0/hardening", `"Allow"`, `"Bypass" or "Block"`},
		{"hardening null on a Tunnel rule", `"Block"`, `null`, "/policy/rules/0/hardening", "null", `"Bypass" or "Block"`},
		{"hardening missing on a Tunnel rule", `, "hardening": "Block"`, ``, "/policy/rules/0/hardening", "nothing", wantMissing},
		{"hardening unknown on a Bypass rule", `"hardening": "bypass"`, `"hardening": "open"`, "/policy/rules/1/hardening",
			`"open"`, `"Bypass" or "Block"`},
		{"quic as another word", `"acquireIfUnresolved": false`, `"quic": "block"`, "/policy/rules/0/quic",
			`"block"`, `"Reject" or null`},
		{"quic as boolean", `"acquireIfUnresolved": false`, `"quic": true`, "/policy/rules/0/quic",
			`true`, `"Reject" or null`},
		{"acquireIfUnresolved as number", `"acquireIfUnresolved": false`, `"acquireIfUnresolved": 0`, "/policy/rules/0/acquireIfUnresolved",
			"0", "true or false"},
		{"acquireIfUnresolved as word", `"acquireIfUnresolved": false`, `"acquireIfUnresolved": "no"`, "/policy/rules/0/acquireIfUnresolved",
			`"no"`, "true or false, or one of them as a string"},
		{"no criteria", `"hardening": "bypass",
   "matchingCriteria"`, `"x"`, "/policy/rules/1/matchingCriteria", "nothing", wantMissing},
		{"protocol unknown", `"Tcp"`, `"Icmp"`, "/policy/rules/0/matchingCriteria/protocol", `"Icmp"`, `"Tcp", "Udp", "Any" or null`},
		{"protocol as number", `"Tcp"`, `6`, "/policy/rules/0/matchingCriteria/protocol", "6", `"Tcp", "Udp", "Any" or null`},

		// Ports.
		{"port range reversed", `{"start": 80, "end": 81}`, `{"start": 81, "end": 80}`, port0, "81-80", "a start that is not after the end"},
		{"port negative", `"start": 80`, `"start": -1`, port0 + "/start", "-1", wantPort},
		{"port fraction", `"start": 80`, `"start": 80.0`, port0 + "/start", "80.0", wantPort},
		{"port exponent", `"start": 80`, `"start": 8e1`, port0 + "/start", "8e1", wantPort},
		{"port beyond range", `"end": 81`, `"end": 65536`, port0 + "/end", "65536", wantPort},
		{"port beyond 64 bits", `"end": 81`, `"end": 99999999999999999999`, port0 + "/end", "99999999999999999999", wantPort},
		{"port as name", `"end": 81`, `"end": "https"`, port0 + "/end", `"https"`, wantPort},
		{"port with plus", `"end": 81`, `"end": "+81"`, port0 + "/end", `"+81"`, wantPort},
		{"port with leading zero", `"end": 81`, `"end": "081"`, port0 + "/end", `"081"`, wantPort},
		{"port end missing", `, "end": 81`, ``, port0 + "/end", "nothing", wantMissing},
		{"port as number", `{"start": 80, "end": 81}`, `80`, port0, "80", "an object"},

		// Addresses.
		{"ips as string", `[` + first + `, ` + prefix + `]`, `"10.0.0.0/8"`, strings.TrimSuffix(ip0, "/0"), `"10.0.0.0/8"`, "a list"},
		{"range reversed", first, `{"start": 167772161, "end": 167772160}`, ip0, "10.0.0.1-10.0.0.0", "a start that is not after the end"},
		{"textual range reversed", first, `{"start": "2001:db8::2", "end": "2001:db8::1"}`, ip0, "2001:db8::2-2001:db8::1",
			"a start that is not after the end"},
		{"range of two families", first, `{"start": "10.0.0.1", "end": "2001:db8::"}`, ip0, "10.0.0.1-2001:db8::",
			"start and end of one address family"},
		{"range without end", first, `{"start": 1}`, ip0 + "/end", "nothing", wantMissing},
		{"range start null", first, `{"start": null, "end": 1}`, ip0 + "/start", "null", wantAddress},
		{"address negative", `167772160`, `-1`, ip0 + "/start", "-1", wantAddress},
		{"address beyond 32 bits", `167772161`, `4294967296`, ip0 + "/end", "4294967296", wantAddress},
		{"address fraction", `167772161`, `167772161.5`, ip0 + "/end", "167772161.5", wantAddress},
		{"address as list", `167772161`, `[10, 0, 0, 1]`, ip0 + "/end", "a list", wantAddress},
		{"address with leading zero", prefix, `"010.0.0.1"`, ip1, `"010.0.0.1"`, wantAddress},
		{"address with zone", prefix, `"fe80::1%eth0"`, ip1, `"fe80::1%eth0"`, "an address without a zone"},
		{"address as name", prefix, `"example.com"`, ip1, `"example.com"`, wantAddress},
		{"address empty", prefix, `""`, ip1, `""`, wantAddress},
		{"address null", prefix, `null`, ip1, "null", wantItem},
		{"address boolean", prefix, `true`, ip1, "true", wantItem},
		{"prefix with host bits", prefix, `"10.1.2.3/16"`, ip1, `"10.1.2.3/16"`, `a prefix without host bits: "10.1.0.0/16"`},
		{"IPv6 prefix with host bits", prefix, `"2001:db8::1/32"`, ip1, `"2001:db8::1/32"`, `a prefix without host bits: "2001:db8::/32"`},
		{"mapped prefix with host bits", prefix, `"::ffff:10.1.2.3/112"`, ip1, `"::ffff:10.1.2.3/112"`,
			`a prefix without host bits: "10.1.0.0/16"`},
		{"prefix too long", prefix, `"10.0.0.0/33"`, ip1, `"10.0.0.0/33"`, `a prefix such as "10.0.0.0/8" or "2001:db8::/32"`},
		{"prefix with zone", prefix, `"fe80::%eth0/64"`, ip1, `"fe80::%eth0/64"`, `a prefix such as "10.0.0.0/8" or "2001:db8::/32"`},

		// Names.
		{"pattern as number", pattern, `1`, fqdn, "1", "a string"},
		{"pattern with look-ahead", pattern, `"(?=a)b"`, fqdn, `"(?=a)b"`, `a regular expression that RE2 can express, without the look-ahead "(?="`},
		{"pattern with negative look-ahead", pattern, `"(?!a)b"`, fqdn, `"(?!a)b"`,
			`a regular expression that RE2 can express, without the negative look-ahead "(?!"`},
		{"pattern with look-behind", pattern, `"(?<=a)b"`, fqdn, `"(?<=a)b"`, `a regular expression that RE2 can express, without the look-behind "(?<="`},
		{"pattern with negative look-behind", pattern, `"(?<!a)b"`, fqdn, `"(?<!a)b"`,
			`a regular expression that RE2 can express, without the negative look-behind "(?<!"`},
		{"pattern with back-reference", pattern, `"(a)\\1"`, fqdn, `"(a)\\1"`, `a regular expression that RE2 can express, without the back-reference "\\1"`},
		{"pattern with named back-reference", pattern, `"(?<n>a)\\k<n>"`, fqdn, `"(?<n>a)\\k<n>"`,
			`a regular expression that RE2 can express, without the back-reference "\\k"`},
		{"pattern with atomic group", pattern, `"(?>a)"`, fqdn, `"(?>a)"`, `a regular expression that RE2 can express, without the atomic group "(?>"`},
		{"pattern with conditional", pattern, `"(?(1)a|b)"`, fqdn, `"(?(1)a|b)"`, `a regular expression that RE2 can express, without the conditional "(?("`},
		{"pattern with class subtraction", pattern, `"[^a-z-[aeiou]]"`, fqdn, `"[^a-z-[aeiou]]"`,
			`a regular expression that RE2 can express, without the character class subtraction "-["`},
		{"pattern unbalanced", pattern, `"a)|(b"`, fqdn, `"a)|(b"`, "a regular expression: unexpected ): `a)|(b`"},
		{"pattern with unknown escape", pattern, `"a\\Z"`, fqdn, `"a\\Z"`, "a regular expression: invalid escape sequence: `\\Z`"},
		{"pattern with control character", pattern, `"a\nb"`, fqdn, `"a\nb"`, "a regular expression of at most 1024 printable bytes"},
		{"pattern too long", pattern, `"` + strings.Repeat("a", 1025) + `"`, fqdn, `"` + strings.Repeat("a", 80) + `"…`,
			"a regular expression of at most 1024 printable bytes"},

		// Private DNS.
		{"private DNS rule as string", `"privateDnsRules": [`, `"privateDnsRules": ["corp", `, "/policy/privateDnsRules/0", `"corp"`, "an object"},
		{"suffix missing", `"suffix": ".Corp.Example.", `, ``, "/policy/privateDnsRules/0/suffix", "nothing", wantMissing},
		{"suffix empty", `".Corp.Example."`, `"."`, "/policy/privateDnsRules/0/suffix", `"."`, "a DNS suffix"},
		{"suffix as pattern", `".Corp.Example."`, `"*.corp"`, "/policy/privateDnsRules/0/suffix", `"*.corp"`, "a DNS suffix"},
		{"suffix with a colon", `".Corp.Example."`, `"corp:53"`, "/policy/privateDnsRules/0/suffix", `"corp:53"`, "a DNS suffix"},
		{"DNS server on this host", `101122046`, `"::ffff:127.0.0.53"`, server0, "127.0.0.53",
			"an address that a channel can lead to, not one of 127.0.0.0/8 (loopback)"},
		{"DNS server unspecified", `101122046`, `0`, server0, "0.0.0.0",
			"an address that a channel can lead to, not one of 0.0.0.0/8 (unspecified)"},
		{"DNS server on the link", `101122046`, `"fe80::1"`, server0, "fe80::1",
			"an address that a channel can lead to, not one of fe80::/10 (link-local)"},
		{"DNS server as multicast", `101122046`, `"224.0.0.251"`, server0, "224.0.0.251",
			"an address that a channel can lead to, not one of 224.0.0.0/4 (multicast)"},
		{"DNS server with zone", `101122046`, `"fd00::1%eth0"`, server0, `"fd00::1%eth0"`, "an address without a zone"},
		{"DNS server as name", `101122046`, `"dns.corp"`, "/policy/privateDnsRules/0/dnsServerAddress", `"dns.corp"`, wantAddress},
		{"single label as number", `"isSingleLabelSuffix": false`, `"isSingleLabelSuffix": 0`,
			"/policy/privateDnsRules/0/isSingleLabelSuffix", "0", "true or false"},

		// Configuration.
		{"configuration as list", `"configuration": {`, `"configuration": [], "x": {`, "/configuration", "a list", "an object"},
		{"interval negative", `300}`, `-300}`, "/configuration/apsSettings/requestPollingIntervalInSeconds", "-300", wantSeconds},
		{"grace time fraction", `3500`, `3.5`, "/configuration/flowHandler/graceTimeInMs", "3.5", wantSeconds},
		{"log size negative", `2.0,`, `-2.0,`, "/configuration/userModeLogs/logSizeInMB", "-2.0", "a number that is not negative"},
		{"file count beyond range", `"fileCount": 3`, `"fileCount": 2147483648`, "/configuration/userModeLogs/fileCount",
			"2147483648", "a whole number from 0 to 2147483647"},
		{"directory as object", `"c:\naaslogs"`, `{}`, "/configuration/userModeLogs/directoryPath", "an object", "a string"},
		{"mask with a hole", `4294901760`, `"255.0.255.0"`, subnet0 + "/subnetMask", "255.0.255.0", wantMask},
		{"mask as list", `4294901760`, `[255, 255]`, subnet0 + "/subnetMask", "a list", wantAddress},
		{"mask empty", `4294901760`, `0`, subnet0 + "/subnetMask", "0.0.0.0", wantMask},
		{"mask of IPv6", `4294901760`, `"ffff::"`, subnet0 + "/subnetMask", "ffff::", wantMask},
		{"subnet of IPv6", `101056512`, `"2001:db8::"`, subnet0 + "/subnetAddress", `"2001:db8::"`, "an IPv4 address"},
		{"subnet with host bits", `101056512`, `101056513`, subnet0 + "/subnetAddress", "6.6.0.1", "a subnet without host bits: 6.6.0.0/16"},
		{"flag as string", `"cacheAuthenticationToken": true`, `"cacheAuthenticationToken": "true"`,
			"/configuration/managementService/cacheAuthenticationToken", `"true"`, "true or false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, p := range problems(t, mutate(t, test.old, test.new)) {
				got = append(got, fmt.Sprintf("%s: got %s, want %s", p.Pointer, p.Value, p.Want))
			}
			diff(t, got, []string{fmt.Sprintf("%s: got %s, want %s", test.pointer, test.value, test.want)})
		})
	}
}

func manyFields(n int) string {
	fields := make([]string, n)
	for i := range fields {
		fields[i] = fmt.Sprintf(`"x%d": 0`, i)
	}
	return strings.Join(fields, ", ")
}

func TestAllProblemsAreFoundInTheOrderOfTheDocument(t *testing.T) {
	text := strings.NewReplacer(`"Tunnel"`, `"Tunel"`, `443,`, `"x",`, `"r2"`, `"r1"`, `3500`, `"\u001b"`).Replace(valid)
	diff(t, problems(t, text), []Problem{
		{"/policy/channels/0/edgesSettings/primaryEdges/0/edgePort", `"x"`, "a whole number from 1 to 65535", 5, 70, strings.Index(text, `"x"`)},
		{"/policy/rules/0/action", `"Tunel"`, `"Tunnel" or "Bypass"`, 12, 59, strings.Index(text, `"Tunel"`)},
		{"/policy/rules/1/id", `"r1"`, "an id that no other rule has", 18, 10, strings.LastIndex(text, `"r1"`)},
		{"/configuration/flowHandler/graceTimeInMs", `"\x1b"`, "a whole number from 0 to 4294967295", 23, 35, strings.Index(text, `"\u001b"`)},
	})
	_, err := Parse(strings.NewReader(text))
	diff(t, err.Error(), `/policy/channels/0/edgesSettings/primaryEdges/0/edgePort: got "x", want a whole number from 1 to 65535`+
		` (line 5, column 70), and 3 more`)
}

func TestListedProblemsAreBounded(t *testing.T) {
	text := mutate(t, first, strings.Repeat("true, ", 99_999)+"true")
	_, err := Parse(strings.NewReader(text))
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	diff(t, len(invalid.Problems), 100)
	diff(t, invalid.Omitted, maxOmitted)
	if !strings.HasSuffix(err.Error(), ", and 10099 more") {
		t.Error(err)
	}
}
