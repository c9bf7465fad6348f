package profile

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestAddressFormsAreRanges(t *testing.T) {
	for _, test := range []struct{ item, want string }{
		{`{"start": 3232238336, "end": 3232238591}`, "192.168.11.0-192.168.11.255"},
		{`{"start": "3232238336", "end": "3232238591"}`, "192.168.11.0-192.168.11.255"},
		{`{"start": 0, "end": 4294967295}`, "0.0.0.0-255.255.255.255"},
		{`{"start": 167772161, "end": 167772166}`, "10.0.0.1-10.0.0.6"},
		{`{"start": "10.0.0.1", "end": "10.0.0.6"}`, "10.0.0.1-10.0.0.6"},
		{`{"start": 167772161, "end": "10.0.0.6"}`, "10.0.0.1-10.0.0.6"},
		{`{"start": "::ffff:10.0.0.1", "end": "10.0.0.1"}`, "10.0.0.1"},
		{`{"start": "2001:db8::1", "end": "2001:db8::ff"}`, "2001:db8::1-2001:db8::ff"},
		{`"10.0.0.0/8"`, "10.0.0.0-10.255.255.255"},
		{`"10.1.2.3/32"`, "10.1.2.3"},
		{`"10.1.2.3"`, "10.1.2.3"},
		{`"3232238336"`, "192.168.11.0"},
		{`3232238336`, "192.168.11.0"},
		{`"0.0.0.0/0"`, "0.0.0.0-255.255.255.255"},
		{`"::/0"`, "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{`"2001:DB8::/29"`, "2001:db8::-2001:dbf:ffff:ffff:ffff:ffff:ffff:ffff"},
		{`"2001:db8::1"`, "2001:db8::1"},
		{`"::ffff:10.1.2.3"`, "10.1.2.3"},
		{`"::ffff:0:0/96"`, "0.0.0.0-255.255.255.255"},
		{`"::ffff:10.0.0.0/104"`, "10.0.0.0-10.255.255.255"},
	} {
		p := mustParse(t, mutate(t, prefix, test.item))
		diff(t, fmt.Sprint(p.Policy.Rules[0].Addrs), "[10.0.0.0-10.0.0.1 "+test.want+"]")
		diff(t, p.Warnings, []Warning(nil))
	}
}

func TestWordsAreReadWithoutRegardToCase(t *testing.T) {
	for _, test := range []struct {
		old, new string
		got      func(r policy.Rule) any
		want     any
	}{
		{`"Tunnel"`, `"TUNNEL"`, func(r policy.Rule) any { return r.Action }, policy.ActionTunnel},
		{`"Tunnel"`, `"bypass"`, func(r policy.Rule) any { return r.Action }, policy.ActionBypass},
		{`"Block"`, `"block"`, func(r policy.Rule) any { return r.Hardening }, policy.HardeningBlock},
		{`"Block"`, `"BYPASS"`, func(r policy.Rule) any { return r.Hardening }, policy.HardeningBypass},
		{`"Tcp"`, `"tcp"`, func(r policy.Rule) any { return r.Protocols }, policy.TCP},
		{`"Tcp"`, `"UDP"`, func(r policy.Rule) any { return r.Protocols }, policy.UDP},
		{`"Tcp"`, `"any"`, func(r policy.Rule) any { return r.Protocols }, policy.AnyProtocol},
		{`"Tcp"`, `null`, func(r policy.Rule) any { return r.Protocols }, policy.AnyProtocol},
		{`"acquireIfUnresolved": false`, `"acquireIfUnresolved": "True"`, func(r policy.Rule) any { return r.AcquireIfUnresolved }, true},
		{`"acquireIfUnresolved": false`, `"acquireIfUnresolved": "false"`, func(r policy.Rule) any { return r.AcquireIfUnresolved }, false},
		{`"acquireIfUnresolved": false`, `"acquireIfUnresolved": true`, func(r policy.Rule) any { return r.AcquireIfUnresolved }, true},
		{`"acquireIfUnresolved": false`, `"quic": "Reject"`, func(r policy.Rule) any { return r.RejectQUIC }, true},
		{`"acquireIfUnresolved": false`, `"quic": "reject"`, func(r policy.Rule) any { return r.RejectQUIC }, true},
		{`"acquireIfUnresolved": false`, `"quic": null`, func(r policy.Rule) any { return r.RejectQUIC }, false},
		{`{"start": 80, "end": 81}`, ``, func(r policy.Rule) any { return r.Ports }, []policy.PortRange{policy.AllPorts()}},
		{`"r1"`, `"r\u0007\u202e1"`, func(r policy.Rule) any { return r.ID }, "r1"},
		{`"r1"`, `"` + strings.Repeat("r", MaxID) + `"`, func(r policy.Rule) any { return r.ID }, strings.Repeat("r", MaxID)},
	} {
		p := mustParse(t, mutate(t, test.old, test.new))
		diff(t, test.got(p.Policy.Rules[0]), test.want)
		diff(t, p.Warnings, []Warning(nil))
	}
}

func TestNamesMatchWholeAndWithoutRegardToCase(t *testing.T) {
	for _, test := range []struct {
		pattern string
		yes, no []string
	}{
		{`example\\.com`, []string{"example.com", "EXAMPLE.com"}, []string{"www.example.com", "example.com.net", "exampleXcom", ""}},
		{`a|bc`, []string{"a", "BC"}, []string{"ac", "ab", "abc"}},
		{`^www\\..+$`, []string{"www.x", "www.x."}, []string{"www.", "a.www.x"}},
		{`[a-z-]+`, []string{"a-b"}, []string{"a[b"}},
		{`[-[]`, []string{"-", "["}, []string{"a"}},
		{`(?<host>a)`, []string{"a"}, []string{"b"}},
	} {
		p := mustParse(t, mutate(t, pattern, `"`+test.pattern+`"`))
		match := p.Policy.Rules[0].Names[0].Match
		for _, name := range test.yes {
			if !match(name) {
				t.Errorf("%s does not match %q", test.pattern, name)
			}
		}
		for _, name := range test.no {
			if match(name) {
				t.Errorf("%s matches %q", test.pattern, name)
			}
		}
	}
}

func TestEdgesAndSuffixesAreCanonical(t *testing.T) {
	p := mustParse(t, mutate(t, `"edge.example.com"`, `"EDGE.Example.com."`))
	diff(t, p.Policy.Channels[0].Primary, []policy.Edge{{Host: "edge.example.com", Port: 443, Secure: true}})
	diff(t, p.Policy.Channels[0].Secondary, []policy.Edge{{Host: "192.0.2.1", Port: 8443, Secure: true}})
	diff(t, p.Policy.PrivateDNS[0].Suffix, "corp.example")
	diff(t, p.Policy.PrivateDNS[0].Server.String(), "6.6.255.254")

	p = mustParse(t, mutate(t, `"isSecure": true`, `"isSecure": false`))
	diff(t, p.Policy.Channels[0].Primary, []policy.Edge{{Host: "edge.example.com", Port: 443}})
}

func TestSuffixForSingleLabelsMayBeThatOfAnotherRule(t *testing.T) {
	p := mustParse(t, mutate(t, privateRule, privateRule+`, {"suffix": "corp.example", "dnsServerAddress": "fd00:9::1", "isSingleLabelSuffix": true}`))
	diff(t, p.Warnings, []Warning(nil))
	diff(t, p.Policy.PrivateDNS, []policy.PrivateDNSRule{
		{Suffix: "corp.example", Server: netip.MustParseAddr("6.6.255.254")},
		{Suffix: "corp.example", Server: netip.MustParseAddr("fd00:9::1"), SingleLabel: true},
	})
}

func TestCacheIsFlushedIfTheProfileSaysSo(t *testing.T) {
	const field = `"policyUpdateFlushOsCache": false, `
	for text, want := range map[string]bool{
		field: false, ``: false, `"policyUpdateFlushOsCache": null, `: false, `"policyUpdateFlushOsCache": true, `: true,
	} {
		diff(t, mustParse(t, mutate(t, field, text)).Policy.Settings.FlushCacheOnChange, want)
	}
}

func TestOddButUsableIsAWarning(t *testing.T) {
	const unknown = "unknown field, kept but not used"
	type kept map[string]json.RawMessage
	for _, test := range []struct {
		name, old, new string
		warning        Warning
		unknown        kept
	}{
		{"unknown field", `"tenantId": "t1"`, `"tenantId": "t1", "a/b~": {"c": [1, null]}`,
			Warning{"/policy/a~1b~0", unknown, 2}, kept{"/policy/a~1b~0": json.RawMessage(`{"c": [1, null]}`)}},
		{"unknown field of a range", `167772161}`, `167772161, "x": 1}`, Warning{ip0 + "/x", unknown, 14}, kept{ip0 + "/x": json.RawMessage("1")}},
		{"field in another case", `"tenantId": "t1"`, `"TenantID": "t1"`,
			Warning{"/policy/TenantID", unknown + `; the name "tenantId" differs only in case`, 2},
			kept{"/policy/TenantID": json.RawMessage(`"t1"`)}},
		{"broken context", `"{}"`, `"{"`, Warning{"/apsContextData", "the text inside is not JSON; it is ignored", 30}, nil},
		{"channel without edges", `[{"edgeAddress": "2001:db8::1", "edgePort": 1}]`, `[]`,
			Warning{"/policy/channels/1", "the channel has no edge, so it cannot carry flows", 9}, nil},
		{"channel without probe", `},
   "diagnosticUri": "http://192.0.2.7:81/"`, `}`, Warning{"/policy/channels/1",
			"the channel has no diagnosticUri, so only dialing its edges can tell whether it works", 9}, nil},
		{"equal orders", `"order": 3`, `"order": 1.50`, Warning{"/policy/rules/1/order",
			`rule "r2" has the order of rule "r1", so their sequence in the profile decides`, 18}, nil},
		{"private suffix twice", privateRule, privateRule + `, {"suffix": "CORP.example", "dnsServerAddress": "192.0.2.9"}`,
			Warning{"/policy/privateDnsRules/1/suffix", "an earlier rule has this suffix, and answers for it", 20}, nil},
		{"two suffixes for single labels", privateRule, `{"suffix": "a", "dnsServerAddress": "192.0.2.9", "isSingleLabelSuffix": true},
			{"suffix": "b", "dnsServerAddress": "192.0.2.9", "isSingleLabelSuffix": true}`,
			Warning{"/policy/privateDnsRules/1/isSingleLabelSuffix", `single labels get the suffix "a" of an earlier rule`, 21}, nil},
		{"empty pattern", pattern, `""`, Warning{fqdn, "an empty regular expression matches no name", 15}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mustParse(t, mutate(t, test.old, test.new))
			diff(t, p.Warnings, []Warning{test.warning})
			diff(t, kept(p.Unknown), test.unknown)
		})
	}
}

func TestEmptyPatternIsLeftOut(t *testing.T) {
	p := mustParse(t, mutate(t, pattern, `"", "a"`))
	diff(t, p.Policy.Rules[0].Names, []policy.NamePattern{name(t, "a")})
}

func TestWarningsAreListedInTheOrderOfTheDocumentAndBounded(t *testing.T) {
	p := mustParse(t, mutate(t, `"tenantId"`, manyFields(1200)+`, "tenantId"`))
	diff(t, len(p.Warnings), 101)
	diff(t, p.Warnings[0], Warning{"/policy/x0", "unknown field, kept but not used", 2})
	diff(t, p.Warnings[100], Warning{Text: "1100 more warnings are not listed"})
	diff(t, len(p.Unknown), 1000)
	diff(t, p.Warnings[100].String(), "document: 1100 more warnings are not listed")
}

func TestCompiledPatternsAreBounded(t *testing.T) {
	list := strings.Repeat(`"`+strings.Repeat("a{1000}", 100)+`", `, 10)
	got := problems(t, mutate(t, pattern, list+`"b"`))
	diff(t, got[0].Pointer, "/policy/rules/0/matchingCriteria/address/fqdns/1")
	diff(t, got[0].Want, "at most 250000 regular expressions, and 200000 instructions in all that are neither a name nor a suffix")
}

func TestReportsAreJSON(t *testing.T) {
	text, err := json.Marshal(&InvalidError{Problems: []Problem{{"/a", `"b"`, "c", 1, 2, 3}}, Omitted: 4})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, string(text), `{"problems":[{"pointer":"/a","value":"\"b\"","want":"c","line":1,"column":2,"offset":3}],"omitted":4}`)
	if text, err = json.Marshal(Warning{"/a", "b", 1}); err != nil {
		t.Fatal(err)
	}
	diff(t, string(text), `{"pointer":"/a","text":"b","line":1}`)
}
