package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func theDNS() DNS {
	histogram := Latency{Count: 3, Sum: 0.5, Buckets: []LatencyBucket{{0.001, 2}, {1, 3}}}
	return DNS{
		On: true, PortIPv4: 4000, PortIPv6: 4001, Patterns: 5,
		Pool:    Pool{Prefixes: []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16")}, Capacity: 65534, Used: 2, Held: 1, Full: 7, LogError: "full disk", LogSize: 4096, Syncs: 2, SyncTime: 0.25, SyncMax: 0.125},
		Private: []PrivateDNS{{PrivateDNSRule{"corp.example", netip.MustParseAddr("6.6.255.254"), true}, "c1", true}},
		Pending: 1, Connections: 2, Lookups: 3,
		Queries: map[string]uint64{"synthetic": 4}, Events: map[string]uint64{"stray": 5}, Latency: map[string]Latency{"direct": histogram},
		Servers: []DNSServer{{netip.MustParseAddrPort("192.0.2.53:53"), "direct", 9, 8, 1, 0, "no answer", histogram}},
	}
}

func (a *fakeAgent) DNS() DNS { return theDNS() }

func (a *fakeAgent) Hostnames() []Hostname {
	return []Hostname{{
		Name: "a.example", Synthetic: []netip.Addr{netip.MustParseAddr("6.6.0.1"), netip.MustParseAddr("fd00::1")},
		Original: netip.MustParseAddr("192.0.2.1"), Acquired: true, Rule: "r1", Channel: "c1",
		PID: 1, UID: 2, Command: "curl", Queries: 3, Flows: 4, Rcode: 3, First: noon, Last: noon.Add(time.Second),
	}, {Name: "b.example"}}
}

func (a *fakeAgent) DNSQuery(_ context.Context, q Question) (Trace, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queries = append(a.queries, q)
	return Trace{
		Name: q.Name, Type: q.Type, Server: "192.0.2.53:53", Code: "NOERROR", Records: []string{"a. 30 IN A 6.6.0.1"}, Took: 0.25,
		Hops: []Hop{{Kind: "ask", Text: "asked", Server: "192.0.2.53:53", Network: "udp", Way: "direct", Code: "NXDOMAIN", Cause: "none", Took: 0.125, Records: []string{"x"}}},
	}, a.err
}

// addresses has cmp compare what it may not look into.
func addresses() cmp.Options {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func TestNamesArriveAsTheAgentSaidThem(t *testing.T) {
	agent := &fakeAgent{}
	c := serve(t, agent)
	names, err := c.Hostnames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := HostnameList{Schema, agent.Hostnames()}
	want.Hostnames[1].Synthetic = []netip.Addr{} // a list in JSON
	if diff := cmp.Diff(want, names, addresses()); diff != "" {
		t.Errorf("Hostnames (-want +got):\n%s", diff)
	}
	d, err := c.DNS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantDNS := theDNS()
	wantDNS.Schema = Schema
	if diff := cmp.Diff(wantDNS, d, addresses()); diff != "" {
		t.Errorf("DNS (-want +got):\n%s", diff)
	}
}

func TestAQueryIsAskedAsItWasMeant(t *testing.T) {
	agent := &fakeAgent{}
	got, err := serve(t, agent).DNSQuery(t.Context(), "WWW.Example.COM.", "https", "192.0.2.53")
	if err != nil {
		t.Fatal(err)
	}
	asked := Question{"www.example.com", "HTTPS", netip.MustParseAddrPort("192.0.2.53:53")}
	if diff := cmp.Diff([]Question{asked}, agent.queries, addresses()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	want, _ := (&fakeAgent{}).DNSQuery(t.Context(), asked)
	want.Schema = Schema
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DNSQuery (-want +got):\n%s", diff)
	}
}

func TestAQuestionThatMakesNoSenseIsTheAskersMistake(t *testing.T) {
	agent := &fakeAgent{err: fmt.Errorf("parse type %q: %w", "NONE", ErrQuestion)}
	c := serve(t, agent)
	for _, test := range []struct{ name, kind, want string }{
		{"a.example", "none", `parse type "NONE": the question makes no sense`},
		{"a..example", "a", `parse name "a..example", want labels of 1 to 63 bytes between dots, 253 in all`},
	} {
		_, err := c.DNSQuery(t.Context(), test.name, test.kind, "")
		if !errors.Is(err, ErrQuestion) || err.Error() != test.want {
			t.Errorf("DNSQuery(%q, %q): %v, want %s", test.name, test.kind, err, test.want)
		}
	}
	if len(agent.queries) != 1 {
		t.Errorf("the agent was asked %+v, want one question", agent.queries)
	}
}

func TestAQuantileIsTheBoundThatHoldsIt(t *testing.T) {
	histogram := Latency{Count: 100, Buckets: []LatencyBucket{{0.001, 50}, {0.01, 98}, {0.1, 99}}}
	for _, test := range []struct {
		q, want float64
		ok      bool
	}{{0.5, 0.001, true}, {0.51, 0.01, true}, {0.98, 0.01, true}, {0.99, 0.1, true}, {0.999, 0, false}} {
		if got, ok := histogram.Quantile(test.q); got != test.want || ok != test.ok {
			t.Errorf("Quantile(%v) = %v, %v, want %v, %v", test.q, got, ok, test.want, test.ok)
		}
	}
	if bound, ok := (Latency{Buckets: []LatencyBucket{{1, 0}}}).Quantile(0.5); ok {
		t.Errorf("Quantile of nothing is %v", bound)
	}
}
