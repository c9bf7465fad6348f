package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// startAgent is the script command
//
//	agent SOCKET [PROFILE]
//
// It answers at a control socket, to the end of the script, as an agent that has
// loaded a profile or none. What it says of itself never changes.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: agent SOCKET [PROFILE]")
	}
	a := new(fakeAgent)
	if len(args) == 2 {
		file := ts.MkAbs(args[1])
		raw, err := os.ReadFile(file)
		ts.Check(err)
		_, err = a.Apply(context.Background(), bytes.NewReader(raw), "/etc/bpfacq/profile.json")
		ts.Check(err)
	}
	l, err := control.Listen(ts.MkAbs(args[0]))
	ts.Check(err)
	s := control.NewServer(a, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	ts.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ts.Check(s.Shutdown(ctx))
		ts.Check(<-served)
	})
}

// fakeAgent is a control.Agent without a datapath.
type fakeAgent struct {
	mu     sync.Mutex
	loaded control.Loaded
}

func (*fakeAgent) at(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }

func (a *fakeAgent) Status(context.Context) control.Status {
	s := control.Status{
		Version: "v1.2.3", PID: 4711, Started: a.at(0), Uptime: 3723.5,
		Cgroup: "/sys/fs/cgroup", Pins: "/sys/fs/bpf/bpfacq",
		Hooks: []control.Hook{
			{Program: "bpfacq_connect4", ID: 51, AttachPoint: "cgroup/connect4"},
			{Program: "bpfacq_connect6", ID: 52, AttachPoint: "cgroup/connect6"},
		},
		Lease: control.Lease{Period: 3, Fresh: true},
		Flows: control.Totals{Active: 1, Refused: 1, BytesSent: 2048, BytesReceived: 123456789},
		DNS:   a.DNS(),
		Packets: control.Packets{
			On: true, Containers: true,
			Uplinks: []control.Uplink{
				{Name: "eth0", Index: 2, State: "up", MTU: 1500, Links: "tcx", Pair: "acq0"},
				{Name: "wg0", Index: 3, State: "failed", MTU: 1420, L3: true, Links: "tcx", Cause: "no enclave", Lost: 1},
			},
			UDP: control.UDP{Flows: 1, Capacity: 65536, Sockets: 1, Events: map[string]uint64{"evicted": 2}},
		},
		Counters: map[string]uint64{"acquire": 2, "block": 0, "pass_no_match": 40},
	}
	loaded, err := a.Loaded()
	if err != nil {
		return s
	}
	p := loaded.Profile()
	s.Profile, s.Generation = &p, loaded.Generation
	s.Warnings = []string{"one warning of the agent"}
	for _, ch := range loaded.Policy.Channels {
		s.Channels = append(s.Channels, control.Channel{
			ID: ch.ID, Name: ch.Name, State: "up", Since: a.at(1), Edge: "edge.example.com:443", Streams: 1, Diagnostic: "ok",
			Protocol: "h2", Datagrams: "yes",
		})
	}
	return s
}

func (a *fakeAgent) Flows() []flow.Flow {
	loaded, err := a.Loaded()
	if err != nil {
		return nil
	}
	carried := flow.Flow{
		ID: 1, OrigDst: netip.MustParseAddrPort("192.168.11.200:80"), Rule: "rule-1", Channel: "channel-1",
		Edge: "edge.example.com:443", Generation: loaded.Generation, PID: 815, UID: 1000, Command: "curl",
		State: flow.StateActive, BytesSent: 78, BytesReceived: 123456789, Started: a.at(2),
	}
	refused := carried
	refused.ID, refused.OrigDst, refused.Name = 2, netip.MustParseAddrPort("[2001:db8::1]:22"), "host.example.com"
	refused.State, refused.Cause, refused.Status = flow.StateRefused, "edge answers 403 Forbidden", http.StatusForbidden
	// A name that would clear the terminal of whoever lists the flows.
	refused.Command, refused.BytesReceived, refused.Ended = "\x1b[2J", 0, a.at(3)
	forwarded := flow.Flow{
		ID: 3, Protocol: flow.UDP, OrigDst: netip.MustParseAddrPort("192.168.11.53:53"), Rule: "rule-1", Channel: "channel-1",
		Source: netip.MustParseAddrPort("192.0.2.2:40000"), Forwarded: true, Container: "docker web",
		Edge: "edge.example.com:443", Generation: loaded.Generation,
		State: flow.StateActive, BytesSent: 30, BytesReceived: 90, DatagramsSent: 1, DatagramsReceived: 1, Started: a.at(4),
	}
	return []flow.Flow{carried, refused, forwarded}
}

func (a *fakeAgent) Loaded() (control.Loaded, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded.Policy == nil {
		return control.Loaded{}, control.ErrNoPolicy
	}
	return a.loaded, nil
}

func (a *fakeAgent) Explain(_ context.Context, f policy.Flow) (policy.Explanation, error) {
	loaded, err := a.Loaded()
	if err != nil {
		return policy.Explanation{}, err
	}
	why := a.explainName(loaded.Policy, f)
	why.Generation = loaded.Generation
	return why, nil
}

func (a *fakeAgent) Path(_ context.Context, q control.PathQuestion) (control.Path, error) {
	switch {
	case q.Verdict == policy.VerdictPass.String():
		return control.Path{Way: control.WayDirect, Why: "nothing acquires it"}, nil
	case q.Verdict == policy.VerdictBlock.String():
		return control.Path{Way: control.WayNone, Why: "it is answered as if nobody listened"}, nil
	case q.Namespace != 0:
		return control.Path{Way: control.WayPacket, Why: "it leaves by eth0", Namespace: "4711", Device: "eth0"}, nil
	case q.Flow.Protocol == policy.UDP:
		return control.Path{Way: control.WayPacket, Why: "it leaves by eth0", Device: "eth0"}, nil
	}
	return control.Path{Way: control.WaySocket, Why: "connect() leads to the agent"}, nil
}

func (a *fakeAgent) Apply(_ context.Context, r io.Reader, source string) (control.Applied, error) {
	if r == nil {
		return control.Applied{}, errors.New("read profile: open /etc/bpfacq/profile.json: no such file or directory")
	}
	p, err := profile.Parse(r)
	if invalid, ok := errors.AsType[*profile.InvalidError](err); ok {
		rejected := &control.RejectedError{Omitted: invalid.Omitted}
		for _, problem := range invalid.Problems {
			rejected.Problems = append(rejected.Problems, control.Problem(problem))
		}
		return control.Applied{}, rejected
	}
	if err != nil {
		return control.Applied{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.loaded = control.Loaded{Policy: p.Policy, Generation: a.loaded.Generation + 1, Source: source, Applied: a.at(0)}
	applied := control.Applied{Generation: a.loaded.Generation, Profile: a.loaded.Profile()}
	for _, w := range p.Warnings {
		applied.Warnings = append(applied.Warnings, control.Warning(w))
	}
	return applied, nil
}

// Reload finds what Apply was last told, if that was anything.
func (a *fakeAgent) Reload(context.Context) error {
	if _, err := a.Loaded(); err == nil {
		return nil
	}
	return errors.New("/etc/bpfacq/bpfacq.toml:2:1: prfile: unknown key")
}

func (*fakeAgent) Metrics() http.Handler { return http.NotFoundHandler() }
