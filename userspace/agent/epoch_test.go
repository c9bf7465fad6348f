package agent

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// idle is a tunnel that reports its end.
type idle struct{ closed chan struct{} }

func (i idle) Connect(ctx context.Context, _ string) (tunnel.Stream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (i idle) Protocol() string { return "" }

func (i idle) ConnectUDP(ctx context.Context, _ string) (tunnel.Datagrams, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (i idle) Close() error {
	close(i.closed)
	return nil
}

// harness is a set of epochs whose channels report their end.
type harness struct {
	*epochs
	closed map[string]chan struct{}
}

func newHarness() *harness {
	return &harness{newEpochs(slog.New(slog.DiscardHandler)), make(map[string]chan struct{})}
}

// epoch makes the epoch of a generation with one rule per channel key.
func (h *harness) epoch(generation uint32, keys ...string) *epoch {
	e := &epoch{generation: generation}
	for _, key := range keys {
		c := h.carrier(key, func() *channel.Channel {
			closed := make(chan struct{})
			h.closed[key] = closed
			return channel.New(channel.Options{
				Channel: policy.Channel{Primary: []policy.Edge{{Host: "edge.example", Port: 443}}},
				Tunnel:  func(policy.Edge) channel.Tunneler { return idle{closed} },
			})
		})
		e.carriers = append(e.carriers, c)
		e.routes = append(e.routes, route{rule: key, carrier: c})
	}
	return e
}

// open lists the channels that are not closed, once pending closes have ended.
func (h *harness) open() []string {
	h.closing.Wait()
	var open []string
	for key, closed := range h.closed {
		select {
		case <-closed:
		default:
			open = append(open, key)
		}
	}
	slices.Sort(open)
	return open
}

func TestFlowKeepsItsEpochAndChannel(t *testing.T) {
	h := newHarness()
	defer h.close()
	first := h.epoch(1, "a", "b")
	h.add(first)
	held := h.hold(1)

	// More policies come than late flows are waited for.
	previous := first
	for generation := uint32(2); generation < 2+2*lateEpochs; generation++ {
		next := h.epoch(generation, "b")
		h.add(next)
		h.supersede(previous)
		previous = next
	}
	if r, ok := h.route(1, 0); !ok || r.rule != "a" {
		t.Errorf("route of a carried flow is %v, %t", r.rule, ok)
	}
	if got := h.open(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("open channels %v, want a and b", got)
	}

	h.release(held)
	if _, ok := h.route(1, 0); ok {
		t.Error("epoch without flows is still known")
	}
	if got := h.open(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("open channels %v, want b", got)
	}
}

func TestLateFlowFindsASupersededEpoch(t *testing.T) {
	h := newHarness()
	defer h.close()
	first := h.epoch(1, "a")
	h.add(first)
	h.add(h.epoch(2, "b"))
	h.supersede(first)

	e := h.hold(1)
	if e != first {
		t.Fatalf("hold of a superseded epoch gives %v", e)
	}
	h.release(e)
	if _, ok := h.route(1, 0); !ok {
		t.Error("one flow's end made the epoch unknown to the next late flow")
	}
	if e := h.hold(3); e != nil {
		t.Errorf("hold of an unknown generation gives %v", e)
	}
	if _, ok := h.route(2, 1); ok {
		t.Error("a rule that the epoch does not have has a route")
	}
}

func TestEqualChannelsAreShared(t *testing.T) {
	h := newHarness()
	defer h.close()
	first, second := h.epoch(1, "a"), h.epoch(2, "a")
	if first.carriers[0] != second.carriers[0] {
		t.Error("two epochs with an equal channel have two")
	}
}

func TestRefusedPolicyLeavesNoChannel(t *testing.T) {
	h := newHarness()
	defer h.close()
	h.add(h.epoch(1, "a"))

	h.epoch(2, "b") // prepared, and given up before it was announced
	h.sweep()
	refused := h.epoch(2, "a", "c") // announced, and refused by the kernel
	h.add(refused)
	h.forget(refused)
	h.sweep()

	if got := h.open(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("open channels %v, want a", got)
	}
	if _, ok := h.route(2, 0); ok {
		t.Error("forgotten epoch is known")
	}
}
