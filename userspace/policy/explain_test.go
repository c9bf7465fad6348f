package policy_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// comparable compares addresses as such.
func comparable() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}) }

// layered has a winner over each kind of rule that it can beat.
func layered() *policy.Policy {
	named := tunnel("named", 9.5)
	named.Names = names(`.+\.example`)
	last := bypass("last", 10)
	last.Names = names(`.*`)
	return &policy.Policy{
		Protected: policy.NeverAcquired(),
		Rules: []policy.Rule{
			onPorts(bypass("other-port", 0, span("10.0.0.0", "10.255.255.255")), policy.PortRange{First: 22, Last: 22}),
			tunnel("winner", 0.5, span("10.1.0.0", "10.1.255.255"), span("10.0.0.0", "10.255.255.255")),
			bypass("twin", 0.5, span("10.1.2.0", "10.1.2.255")),
			bypass("narrow", 5, span("10.1.2.3", "10.1.2.3")),
			tunnel("broad", 6, span("0.0.0.0", "255.255.255.255")),
			tunnel("elsewhere", 7, span("192.0.2.0", "192.0.2.255")),
			named,
			last,
		},
	}
}

func TestExplainNamesTheWinnerAndTheBeaten(t *testing.T) {
	name := policy.Flow{Protocol: policy.UDP, Name: "a.example.", Port: 443}
	for _, test := range []struct {
		behaviour string
		flow      policy.Flow
		want      policy.Explanation
	}{
		{
			"acquired", tcp("10.1.2.3:80"),
			policy.Explanation{
				Protocol: "tcp", Destination: "10.1.2.3", Port: 80, Verdict: "acquire", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "winner", Order: 0.5, Channel: "private", Action: "tunnel", Hardening: "block"},
				Beaten: []policy.BeatenRule{
					{ID: "twin", Order: 0.5, Channel: "private", Action: "bypass", Why: "same order, later in the profile"},
					{ID: "narrow", Order: 5, Channel: "private", Action: "bypass", Why: "covered but more specific: order beats specificity"},
					{ID: "broad", Order: 6, Channel: "private", Action: "tunnel", Why: "later in order (6 after 0.5)"},
				},
			},
		},
		{
			"passed by a rule", tcp("10.9.9.9:22"),
			policy.Explanation{
				Protocol: "tcp", Destination: "10.9.9.9", Port: 22, Verdict: "pass", Reason: policy.ReasonRule,
				Rule: &policy.ExplainedRule{ID: "other-port", Channel: "private", Action: "bypass"},
				Beaten: []policy.BeatenRule{
					{ID: "winner", Order: 0.5, Channel: "private", Action: "tunnel", Why: "later in order (0.5 after 0)"},
					{ID: "broad", Order: 6, Channel: "private", Action: "tunnel", Why: "later in order (6 after 0)"},
				},
			},
		},
		{
			"never acquired", tcp("[::ffff:169.254.169.254]:80"),
			policy.Explanation{
				Protocol: "tcp", Destination: "169.254.169.254", Port: 80, Verdict: "pass", Reason: policy.ReasonNeverAcquired,
				Protection: "link-local, metadata service",
				Beaten: []policy.BeatenRule{
					{ID: "broad", Order: 6, Channel: "private", Action: "tunnel", Why: "the destination is never acquired: link-local, metadata service"},
				},
			},
		},
		{
			"no match", tcp("[2001:db8::1]:80"),
			policy.Explanation{
				Protocol: "tcp", Destination: "2001:db8::1", Port: 80, Verdict: "pass", Reason: policy.ReasonNoMatch,
				Beaten: []policy.BeatenRule{},
			},
		},
		{
			"name", name,
			policy.Explanation{
				Protocol: "udp", Destination: "a.example", Name: "a.example", Port: 443,
				Verdict: "pass", Reason: policy.ReasonNoPool,
				Hostname: &policy.ExplainedName{
					DecidedBy: "address",
					Note:      "there is no pool to acquire names with: the address that it is resolved to decides",
				},
				Rule: &policy.ExplainedRule{ID: "named", Order: 9.5, Channel: "private", Action: "tunnel", Hardening: "block"},
				Beaten: []policy.BeatenRule{
					{ID: "last", Order: 10, Channel: "private", Action: "bypass", Why: "later in order (10 after 9.5)"},
				},
			},
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			test.want.Schema = 1
			got := policy.Explain(layered(), test.flow)
			if diff := cmp.Diff(test.want, got, comparable()); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExplainDecisionOfTables(t *testing.T) {
	p := layered()
	c := mustCompile(t, p)
	f := policy.Flow{Protocol: policy.TCP, Addr: netip.MustParseAddr("10.1.2.3"), Port: 80}
	if diff := cmp.Diff(policy.Explain(p, f), policy.ExplainDecision(p, f, c.Lookup(f)), comparable()); diff != "" {
		t.Errorf("explanation of the tables' decision (-oracle +tables):\n%s", diff)
	}
}

func TestExplanationJSON(t *testing.T) {
	for _, test := range []struct {
		behaviour string
		flow      policy.Flow
		want      string
	}{
		{
			"rule", tcp("10.9.9.9:22"),
			`{"schema":1,"protocol":"tcp","destination":"10.9.9.9","port":22,"verdict":"pass","reason":"rule",` +
				`"rule":{"id":"other-port","order":0,"channel":"private","action":"bypass"},` +
				`"beaten":[{"id":"winner","order":0.5,"channel":"private","action":"tunnel","why":"later in order (0.5 after 0)"},` +
				`{"id":"broad","order":6,"channel":"private","action":"tunnel","why":"later in order (6 after 0)"}],"generation":0}`,
		},
		{
			"no match", tcp("[2001:db8::1]:80"),
			`{"schema":1,"protocol":"tcp","destination":"2001:db8::1","port":80,"verdict":"pass","reason":"no-match",` +
				`"rule":null,"beaten":[],"generation":0}`,
		},
		{
			"never acquired", tcp("[::1]:80"),
			`{"schema":1,"protocol":"tcp","destination":"::1","port":80,"verdict":"pass","reason":"never-acquired",` +
				`"protection":"loopback","rule":null,"beaten":[],"generation":0}`,
		},
		{
			"name", policy.Flow{Protocol: policy.TCP, Name: "A.example.", Port: 80, Addr: netip.MustParseAddr("192.0.2.9")},
			`{"schema":1,"protocol":"tcp","destination":"a.example","name":"a.example","port":80,"verdict":"acquire","reason":"rule",` +
				`"hostname":{"acquired":true,"synthetic":["6.6.0.7"],"original":"192.0.2.9","decided_by":"name","also_match_original":false,` +
				`"other_ports":"go to the original address 192.0.2.9, which decides","note":"acquired by its name, which the edge resolves"},` +
				`"rule":{"id":"named","order":9.5,"channel":"private","action":"tunnel","hardening":"block"},` +
				`"beaten":[{"id":"last","order":10,"channel":"private","action":"bypass","why":"later in order (10 after 9.5)"}],"generation":0}`,
		},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			p := layered()
			p.Pools = []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16")}
			why := policy.Explain(p, test.flow)
			if why.Hostname != nil {
				why.Hostname.Synthetic = []netip.Addr{netip.MustParseAddr("6.6.0.7")}
			}
			got, err := json.Marshal(why)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}
