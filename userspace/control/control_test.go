package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fakeAgent answers what it is told and remembers what it was asked.
type fakeAgent struct {
	mu       sync.Mutex
	loaded   Loaded
	err      error
	applied  []string // "source: profile"
	explored []policy.Flow
	reloads  int
	queries  []Question
	paths    []PathQuestion
}

func (a *fakeAgent) Status(context.Context) Status {
	return Status{
		Version: "v1", PID: 7, Started: noon, Uptime: 1.5, Cgroup: "/c", Pins: "/p",
		Hooks:      []Hook{{"bpfacq_connect4", 3, "cgroup/connect4"}},
		Generation: 2,
		Channels:   []Channel{{ID: "c1", Name: "Private", State: "up", Since: noon, Edge: "e:443", Streams: 2}},
		Lease:      Lease{3, true},
		Packets: Packets{
			On: true, Containers: true,
			Uplinks: []Uplink{{Name: "eth0", Index: 2, State: "up", MTU: 1500, Links: "tcx", Pair: "acq0"}},
			UDP:     UDP{Flows: 1, Capacity: 2, Sockets: 3, Events: map[string]uint64{"evicted": 4}},
		},
		DNS:      theDNS(),
		Counters: map[string]uint64{"pass": 9},
		Warnings: []string{"one"},
	}
}

func (a *fakeAgent) Flows() []flow.Flow {
	return []flow.Flow{{ID: 1, OrigDst: netip.MustParseAddrPort("[2001:db8::1]:443"), State: flow.StateRefused, Status: 403, Started: noon,
		Protocol: flow.UDP, Source: netip.MustParseAddrPort("192.0.2.3:9"), Forwarded: true, Container: "docker web", DatagramsSent: 5}}
}

func (a *fakeAgent) Loaded() (Loaded, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.loaded, a.err
}

func (a *fakeAgent) Explain(_ context.Context, f policy.Flow) (policy.Explanation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.explored = append(a.explored, f)
	return policy.Explain(&policy.Policy{}, f), a.err
}

func (a *fakeAgent) Path(_ context.Context, q PathQuestion) (Path, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paths = append(a.paths, q)
	return Path{Way: WayDirect, Why: "why", Device: "eth0"}, a.err
}

func (a *fakeAgent) Apply(_ context.Context, profile io.Reader, source string) (Applied, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := "(configured)"
	if profile != nil {
		b, err := io.ReadAll(profile)
		if err != nil {
			return Applied{}, err
		}
		text = string(b)
	}
	a.applied = append(a.applied, source+": "+text)
	return Applied{Generation: 3, Warnings: []Warning{{Pointer: "/x", Text: "unknown field"}}}, a.err
}

func (a *fakeAgent) Reload(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reloads++
	return a.err
}

func (a *fakeAgent) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "bpfacq_up 1\n") })
}

// serve runs a server for agent and returns a client of it.
func serve(t *testing.T, agent Agent) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(agent, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wg.Wait()
	})
	return NewClient(path)
}

func testPolicy() *policy.Policy {
	return &policy.Policy{
		ID: "p", Tenant: "t", Revision: "r",
		Channels: []policy.Channel{{
			ID: "c1", Name: "Private", DiagnosticURI: "https://d/ping",
			Primary:   []policy.Edge{{Host: "edge.example.com", Port: 443, Secure: true}},
			Secondary: []policy.Edge{{Host: "2001:db8::9", Port: 8080}},
		}},
		Rules: []policy.Rule{{
			ID: "r1", Order: 1.5, Channel: "c1", Action: policy.ActionTunnel, Hardening: policy.HardeningBlock,
			Addrs: []policy.AddrRange{
				{First: netip.MustParseAddr("192.168.11.0"), Last: netip.MustParseAddr("192.168.11.255")},
				{First: netip.MustParseAddr("10.0.0.1"), Last: netip.MustParseAddr("10.0.0.6")},
			},
			Names:     []policy.NamePattern{{Source: `.+\.example\.com`}},
			Ports:     []policy.PortRange{{First: 22, Last: 22}, {First: 8000, Last: 8999}},
			Protocols: policy.TCP, RejectQUIC: true,
		}},
		Settings:   policy.Settings{GraceTime: 3500 * time.Millisecond, SyntheticPool: netip.MustParsePrefix("6.6.0.0/16"), FlushCacheOnChange: true},
		PrivateDNS: []policy.PrivateDNSRule{{Suffix: "corp.example", Server: netip.MustParseAddr("6.6.255.254"), SingleLabel: true}},
		Protected:  []policy.Protection{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Ports: policy.AllPorts(), Reason: "loopback"}},
	}
}

func TestStatusArrivesAsTheAgentSaidIt(t *testing.T) {
	agent := &fakeAgent{}
	got, err := serve(t, agent).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Status(t.Context())
	want.Schema = Schema
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		t.Errorf("Status (-want +got):\n%s", diff)
	}
}

func TestFlowsArriveAsTheAgentSaidThem(t *testing.T) {
	agent := &fakeAgent{}
	got, err := serve(t, agent).Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(FlowList{Schema, agent.Flows()}, got, addresses()); diff != "" {
		t.Errorf("Flows (-want +got):\n%s", diff)
	}
}

// bareAgent has nothing to tell.
type bareAgent struct{ *fakeAgent }

func (bareAgent) Status(context.Context) Status { return Status{} }
func (bareAgent) Flows() []flow.Flow            { return nil }
func (bareAgent) DNS() DNS                      { return DNS{} }
func (bareAgent) Hostnames() []Hostname         { return nil }

func TestEmptyListsAreListsInJSON(t *testing.T) {
	c := serve(t, bareAgent{&fakeAgent{}})
	for _, path := range []string{pathStatus, pathFlows, pathDNS, pathHostnames} {
		got, err := ask[map[string]any](t.Context(), c, http.MethodGet, path, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"hooks", "channels", "warnings", "flows", "hostnames", "private", "servers"} {
			if value, ok := got[key]; ok && value == nil {
				t.Errorf("%s of %s is null", key, path)
			}
		}
		if packets, ok := got["packets"].(map[string]any); ok {
			if udp := packets["udp"].(map[string]any); packets["uplinks"] == nil || udp["events"] == nil {
				t.Errorf("a list of packets in %s is null", path)
			}
		}
		for _, part := range []any{got, got["dns"]} {
			if d, ok := part.(map[string]any); ok && d["pool"] != nil && d["pool"].(map[string]any)["prefixes"] == nil {
				t.Errorf("prefixes of the pool in %s are null", path)
			}
		}
		if got["schema"] != 1.0 {
			t.Errorf("schema of %s is %v", path, got["schema"])
		}
	}
}

func TestRulesAreReadable(t *testing.T) {
	got, err := serve(t, &fakeAgent{loaded: Loaded{Policy: testPolicy(), Generation: 4}}).Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := RuleList{Schema, 4, []Rule{{
		Index: 0, ID: "r1", Order: 1.5, Action: "tunnel", Hardening: "block",
		Channel: "c1", Name: "Private", Protocol: "tcp", QUIC: "reject",
		Ports:     []string{"22", "8000-8999"},
		Addresses: []string{"192.168.11.0/24", "10.0.0.1-10.0.0.6"},
		Names:     []string{`.+\.example\.com`},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Rules (-want +got):\n%s", diff)
	}
}

func TestPolicyIsReadable(t *testing.T) {
	loaded := Loaded{Policy: testPolicy(), Generation: 4, Source: "/f.json", Applied: noon}
	got, err := serve(t, &fakeAgent{loaded: loaded}).Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := PolicyAnswer{
		Schema: Schema, Generation: 4,
		Profile: Profile{ID: "p", Tenant: "t", Revision: "r", Rules: 1, Source: "/f.json", Applied: noon},
		Channels: []PolicyChannel{{
			ID: "c1", Name: "Private", DiagnosticURI: "https://d/ping",
			Primary:   []Edge{{"edge.example.com:443", true}},
			Secondary: []Edge{{"[2001:db8::9]:8080", false}},
		}},
		Settings:   Settings{GraceTime: 3.5, SyntheticPool: "6.6.0.0/16", FlushCache: true},
		Protected:  []Protected{{"127.0.0.0/8", "0-65535", "loopback"}},
		PrivateDNS: []PrivateDNSRule{{"corp.example", netip.MustParseAddr("6.6.255.254"), true}},
	}
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		t.Errorf("Policy (-want +got):\n%s", diff)
	}
}

func TestQuestionsWithoutPolicySayNoPolicy(t *testing.T) {
	c := serve(t, &fakeAgent{err: ErrNoPolicy})
	if _, err := c.Rules(t.Context()); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("Rules: %v, want ErrNoPolicy", err)
	}
	if _, err := c.Policy(t.Context()); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("Policy: %v, want ErrNoPolicy", err)
	}
	if _, err := c.Explain(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("Explain: %v, want ErrNoPolicy", err)
	}
}

func TestApplySendsTheProfileOrAsksForTheConfiguredOne(t *testing.T) {
	agent := &fakeAgent{}
	c := serve(t, agent)
	for _, test := range []struct {
		profile io.Reader
		source  string
	}{
		{strings.NewReader("{}"), "/a & b.json"},
		{strings.NewReader(""), "/empty"}, // is not the configured one
		{nil, ""},
	} {
		applied, err := c.Apply(t.Context(), test.profile, test.source)
		if err != nil {
			t.Fatal(err)
		}
		want := Applied{Schema: Schema, Generation: 3, Warnings: []Warning{{Pointer: "/x", Text: "unknown field"}}}
		if diff := cmp.Diff(want, applied); diff != "" {
			t.Errorf("Apply (-want +got):\n%s", diff)
		}
	}
	want := []string{"/a & b.json: {}", "/empty: ", ": (configured)"}
	if diff := cmp.Diff(want, agent.applied); diff != "" {
		t.Errorf("the agent applied (-want +got):\n%s", diff)
	}
}

func TestApplyBringsProblemsBack(t *testing.T) {
	problems := []Problem{
		{Pointer: "/policy/rules/0/order", Value: `"x"`, Want: "a number", Line: 3, Column: 4, Offset: 50},
		{Value: "nothing", Want: "JSON"},
	}
	c := serve(t, &fakeAgent{err: &RejectedError{problems, 2}})
	_, err := c.Apply(t.Context(), strings.NewReader("{}"), "f")
	rejected, ok := errors.AsType[*RejectedError](err)
	if !ok {
		t.Fatalf("Apply: %v, want a *RejectedError", err)
	}
	if diff := cmp.Diff(problems, rejected.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	const want = "/policy/rules/0/order: got \"x\", want a number (line 3, column 4)\n" +
		"document: got nothing, want JSON\n2 more problems"
	if err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestApplyBoundsTheProfile(t *testing.T) {
	agent := &fakeAgent{}
	c := serve(t, agent)
	if _, err := c.Apply(t.Context(), zeros{}, "f"); err == nil || !strings.Contains(err.Error(), "want at most 67108864 bytes") {
		t.Errorf("Apply of an endless profile: %v", err)
	}
	// A client that does not bound it meets the server's own limit.
	_, err := ask[Applied](t.Context(), c, http.MethodPost, pathPolicy, nil, io.LimitReader(zeros{}, maxProfile+1))
	if err == nil {
		t.Error("the server took a profile above its limit")
	}
	if len(agent.applied) != 0 {
		t.Error("the agent got the profile")
	}
}

func TestReloadReportsTheAgentsWords(t *testing.T) {
	agent := &fakeAgent{}
	c := serve(t, agent)
	if err := c.Reload(t.Context()); err != nil {
		t.Errorf("Reload: %v", err)
	}
	agent.mu.Lock()
	agent.err = errors.New("read configuration: x")
	agent.mu.Unlock()
	if err := c.Reload(t.Context()); err == nil || err.Error() != "read configuration: x" {
		t.Errorf("Reload: %v, want the agent's words", err)
	}
	if agent.reloads != 2 {
		t.Errorf("the agent reloaded %d times, want 2", agent.reloads)
	}
}

func TestServerRefusesOtherPathsAndMethods(t *testing.T) {
	c := serve(t, &fakeAgent{})
	_, err := ask[done](t.Context(), c, http.MethodGet, "/v1/nothing", nil, nil)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != http.StatusNotFound {
		t.Errorf("unknown path: %v, want status 404", err)
	}
	if _, err := ask[done](t.Context(), c, http.MethodDelete, pathStatus, nil, nil); err == nil {
		t.Error("DELETE of the status was answered")
	}
}

func TestMetricsAreServed(t *testing.T) {
	c := serve(t, &fakeAgent{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bpfacq"+pathMetrics, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "bpfacq_up 1\n" {
		t.Errorf("metrics are %q, %v", b, err)
	}
}

func TestClientSaysThatNoAgentIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	_, err := NewClient(path).Status(t.Context())
	e, ok := errors.AsType[*UnreachableError](err)
	if !ok || e.Socket != path || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("Status: %v, want ENOENT of %s", err, path)
	}
	if want := "reach the agent at " + path + ": no such file or directory"; err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
	leaveStale(t, path)
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Status at a stale socket: %v, want ECONNREFUSED", err)
	}
}
