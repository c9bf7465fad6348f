package e2e

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
)

// listening is an application with a live flow, which it reads to the end.
func (s *packetSite) listening(t *testing.T, from place, to string) *transcript {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "exchange", "listen", to)
	heard := &transcript{}
	cmd.Stdout = heard
	testutil.Start(t, from.namespace, s.cgroup, cmd)
	await(t, "a live flow", func() bool { return heard.count(to+"\n") == 1 })
	return heard
}

func TestKilledAgentBreaksItsFlowsAtOnceAndBlocksNothingElse(t *testing.T) {
	s := newPacketSite(t)
	s.config.Kernel.Lease = config.Default().Kernel.Lease
	s.startPacketEdge(t)
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	testutil.EchoDatagrams(t, s.net, classPort)
	s.start(t)
	container := s.places()[1]
	flows := []*transcript{
		s.listening(t, container, "192.168.11.1:22"),
		s.listening(t, container, "192.168.12.1:22"),
	}
	p := s.speaker(t, s.host)
	for _, each := range []string{"open", "closed", "direct"} {
		p.want(t, "opened", "open", each, "udp4")
	}
	const open, closed = "192.168.11.1:4433", "192.168.12.1:4433"
	p.want(t, echoed(open, 10), "echo", "open", open, 10)
	p.want(t, echoed(closed, 10), "echo", "closed", closed, 10)

	killed := time.Now()
	kill(t, s.agent)
	for _, heard := range flows {
		await(t, "the end of a live flow", func() bool { return heard.count("ECONNRESET") == 1 })
	}
	ended := time.Since(killed)
	await(t, "the end of the pair", func() bool { return s.pairs(t) == 0 })
	t.Logf("the flows ended in %v, and the pair of devices in %v", ended, time.Since(killed))
	direct := at(edgeAddr, classPort)
	p.want(t, echoed(direct, 10), "echo", "direct", direct, 10)

	s.direct = true
	await(t, "flows that may to go direct", func() bool {
		p.do(t, "send", "open", open, 10)
		return s.counted(t, s.wire)["open"] > 0
	})
	before := s.counter(t, "block")
	q := s.speaker(t, s.container)
	q.want(t, "opened", "open", "closed", "udp4")
	for range 3 {
		p.do(t, "send", "closed", closed, 10)
		q.want(t, "sent", "send", "closed", closed, 10)
	}
	if got := testutil.Child(t, s.host, s.cgroup, "connect", "device=up0", "192.168.12.1:22"); got != "ECONNREFUSED\n" && got != "EPERM\n" {
		t.Errorf("without an agent: bound TCP of hardening Block gives %q", got)
	}
	if seen := s.counted(t, s.wire); seen["closed"] != 0 || seen["other"] != 0 {
		t.Errorf("on the wire there was %v, want nothing of hardening Block", seen)
	}
	if s.counter(t, "block") == before {
		t.Error("nothing was counted as blocked")
	}

	s.start(t)
	p.want(t, echoed(closed, 10), "echo", "closed", closed, 10)
	p.want(t, echoed(open, 4000), "echo", "open", open, 4000)
	if pairs := s.pairs(t); pairs != 1 {
		t.Errorf("%d pairs for one uplink", pairs)
	}

	// What a killed agent leaves decides for as long as it is there, and no longer.
	kill(t, s.agent)
	await(t, "the end of the pair", func() bool { return s.pairs(t) == 0 })
	err := s.host.Do(func() error {
		removed, err := loader.Detach(s.pins)
		if !removed {
			t.Error("there was nothing to remove")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wantNoFilters(t, "up0")
	p.want(t, "sent", "send", "closed", closed, 10)
	if seen := s.counted(t, s.wire); seen["closed"] != 1 {
		t.Errorf("on the wire there was %v, want one datagram of hardening Block", seen)
	}
}

// wantNoFilters fails the test if programs are left at a device.
func (s *packetSite) wantNoFilters(t *testing.T, device string) {
	t.Helper()
	s.link(t, s.host, device, func(h *netlink.Handle, link netlink.Link) error {
		for _, parent := range []uint32{netlink.HANDLE_MIN_EGRESS, netlink.HANDLE_MIN_INGRESS} {
			filters, err := h.FilterList(link, parent)
			if err != nil && err != unix.EINVAL { // there is no clsact
				return err
			}
			if len(filters) != 0 {
				t.Errorf("%s still has %v", device, filters)
			}
		}
		return nil
	})
	err := s.host.Do(func() error {
		hooks, err := loader.Hooks(s.pins)
		if len(hooks) != 0 {
			t.Errorf("hooks %v, want none", hooks)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEdgeWithoutDatagramsLeavesThemToHardening(t *testing.T) {
	s := newPacketSite(t)
	s.direct = true
	s.startSquidEdge(t)
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	s.start(t)
	const open, closed = "192.168.11.1:4433", "192.168.12.1:4433"
	p := s.speaker(t, s.host)
	p.want(t, "opened", "open", "open", "udp4")
	p.want(t, "opened", "open", "closed", "udp4")
	p.want(t, "connected", "connect", "closed", closed)
	await(t, "datagrams that may to go direct", func() bool {
		p.want(t, "sent", "send", "open", open, 10)
		return s.counted(t, s.wire)["open"] > 0
	})
	await(t, "datagrams that may not to be refused", func() bool {
		got := p.do(t, "send", "closed", "-", 10)
		return got == "ECONNREFUSED" || got == "EPERM"
	})
	if seen := s.counted(t, s.wire); seen["closed"] != 0 {
		t.Errorf("on the wire there was %v, want nothing of hardening Block", seen)
	}
	// Streams are carried all the same.
	for _, to := range []string{"192.168.11.1:22", "192.168.12.1:22"} {
		if got := testutil.Child(t, s.container, s.cgroup, "connect", "plain", to); got != greeted(to)+"\n" {
			t.Errorf("TCP to %s: got %q, want it to be carried", to, got)
		}
	}
	if n := s.log.count(`msg="edge carries no datagrams"`); n != 1 {
		t.Errorf("the log says %d times that the edge carries no datagrams, want once", n)
	}
	s.stop(t)
}

// A container's connection that was direct before the agent came is nobody's that
// the agent knows. What it says next does not leave the host.
func TestStreamThatNobodyKnowsIsResetAndNotSent(t *testing.T) {
	const to = "192.168.11.77:22"
	s := newPacketSite(t)
	s.startPacketEdge(t)
	s.nft(t, s.wire, "flush chain inet wire arrive\n")
	if err := s.wire.AddAddr("lo", prefixes("192.168.11.77/32")[0]); err != nil {
		t.Fatal(err)
	}
	testutil.Echo(t, s.wire, to)
	ctx, cancel := context.WithTimeout(t.Context(), exchangeTimeout)
	defer cancel()
	conn, err := s.container.DialContext(ctx, "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.start(t)
	s.nft(t, s.wire, "add rule inet wire arrive ip daddr 192.168.11.0/24 counter name open\n")
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello?")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 64)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, %v, want %v", n, err, syscall.ECONNRESET)
	}
	if seen := s.seen(t); seen != "" {
		t.Errorf("on the wire there was %s", seen)
	}
	s.direct = true // without the agent, the rest goes as it always did
	s.wantFirewallAtEase(t)
	s.stop(t)
}
