package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

func TestPrimariesTakeTurns(t *testing.T) {
	inBubble(t, options{edges: "abc x"}, func(t *testing.T, r *rig) {
		r.pass(time.Minute) // probes do not take a turn
		r.takes("a", "b", "c", "a", "b", "c", "a")
		if n := len(r.edges["x"].calls); n != 0 {
			t.Errorf("the secondary was asked %d times while the primaries are well", n)
		}
	})
}

func TestEdgeThatGivesNoAnswerHandsOver(t *testing.T) {
	for _, stage := range []tunnel.Stage{tunnel.StageResolve, tunnel.StageDial, tunnel.StageTLS, tunnel.StageConnect} {
		t.Run(stage.String(), func(t *testing.T) {
			inBubble(t, options{edges: "abc"}, func(t *testing.T, r *rig) {
				broken := func(context.Context, string) (tunnel.Stream, error) {
					return nil, &tunnel.StageError{Stage: stage, Err: errTest}
				}
				r.edges["a"].turn(broken)
				r.edges["b"].turn(broken)
				before := time.Now()
				r.takes("c")
				if d := time.Since(before); d != 0 {
					t.Errorf("the hand-over took %v", d)
				}
				for name, want := range map[string]int{"a": 1, "b": 1, "c": 1} {
					if got := r.edges[name].flows(); got != want {
						t.Errorf("edge %s was asked %d times, want %d", name, got, want)
					}
				}
			})
		})
	}
}

func TestLastEdgesErrorIsTheFlows(t *testing.T) {
	inBubble(t, options{edges: "a x"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		last := &tunnel.StageError{Stage: tunnel.StageTLS, Err: errors.New("certificate expired")}
		r.edges["x"].turn(func(context.Context, string) (tunnel.Stream, error) { return nil, last })
		if edge, err := r.flow(); edge != "x" || err != error(last) {
			t.Errorf("flow failed through %q with %v, want the error of x", edge, err)
		}
	})
}

func TestRefusalStands(t *testing.T) {
	for _, status := range []int{403, 407, 429, 502, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inBubble(t, options{edges: "ab x"}, func(t *testing.T, r *rig) {
				r.edges["a"].turn(refusing(status))
				edge, err := r.flow()
				refused, ok := errors.AsType[*tunnel.RefusedError](err)
				if !ok || refused.Status != status || edge != "a" {
					t.Fatalf("flow: %v through %q, want the refusal of a", err, edge)
				}
				if n := r.edges["b"].flows() + r.edges["x"].flows(); n != 0 {
					t.Errorf("%d other edges were asked after a refusal", n)
				}
				r.pass(time.Minute)
				r.wantState(StateUp)
				r.wantSeen(StateUp)
				r.takes("b") // and a keeps its turn
				if edge, _ := r.flow(); edge != "a" {
					t.Errorf("the next flow went through %q, want a", edge)
				}
			})
		})
	}
}

func TestFlowThatIsGivenUpIsNotHandedOver(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(silent)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, edge, err := r.Connect(ctx, host); edge.Host != "a" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flow: %v through %q, want its own end at a", err, edge.Host)
		}
		if n := r.edges["b"].flows(); n != 0 {
			t.Errorf("b was asked %d times for a flow that nobody wants", n)
		}
		r.edges["a"].turn(well)
		r.takes("b", "a") // a is not taken for failing
		r.wantSeen(StateUp)
	})
}

func TestFlowThatNoEdgeIsAskedForSaysNothingOfThem(t *testing.T) {
	errMalformed := errors.New("malformed authority")
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		for _, edge := range r.edges {
			edge.turn(func(_ context.Context, authority string) (tunnel.Stream, error) {
				if authority == host {
					return nil, errMalformed
				}
				return quiet{}, nil
			})
		}
		for range 10 {
			if _, err := r.flow(); !errors.Is(err, errMalformed) {
				t.Errorf("flow: %v, want the tunnel's error", err)
			}
		}
		if a, b := r.edges["a"].flows(), r.edges["b"].flows(); a != 5 || b != 5 {
			t.Errorf("a and b were asked %d and %d times for 10 flows", a, b)
		}
		r.wantState(StateUp)
		r.wantSeen(StateUp)
	})
}

// An application must not be able to take a channel from all others by asking
// for a destination at which the edge hangs up.
func TestEdgeThatHangsUpOnOneDestinationStaysUp(t *testing.T) {
	inBubble(t, options{edges: "a"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(func(_ context.Context, authority string) (tunnel.Stream, error) {
			if authority == host {
				return nil, &tunnel.StageError{Stage: tunnel.StageConnect, Err: tunnel.ErrReset}
			}
			return quiet{}, nil
		})
		for range 100 {
			if _, err := r.flow(); !errors.Is(err, tunnel.ErrReset) {
				t.Fatalf("flow: %v, want a reset", err)
			}
			r.pass(time.Second)
		}
		r.wantSeen(StateUp)
		if n := len(r.edges["a"].probes()); n > 11 {
			t.Errorf("%d probes in 100 s", n)
		}
	})
}

func TestEdgeThatHangsUpOnEverythingIsLost(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		r.edges["b"].turn(func(context.Context, string) (tunnel.Stream, error) {
			return nil, &tunnel.StageError{Stage: tunnel.StageConnect, Err: tunnel.ErrReset}
		})
		r.takes("a", "a") // the second one after b
		r.pass(11 * time.Second)
		asked := r.edges["b"].flows()
		r.takes("a", "a", "a", "a")
		if n := r.edges["b"].flows() - asked; n != 0 {
			t.Errorf("b was asked for %d flows after its probe had failed", n)
		}
	})
}

func TestSecondariesServeWhileEveryPrimaryFails(t *testing.T) {
	inBubble(t, options{edges: "ab xy"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		r.takes("b", "b", "b")
		r.edges["b"].turn(unreached)
		r.takes("x", "x", "x") // in order: y is for when x fails too
		r.edges["x"].turn(unreached)
		r.takes("y", "y")
		r.pass(time.Minute)
		r.takes("y", "y")

		r.edges["b"].turn(well)
		r.pass(11 * time.Second)
		r.takes("b", "b", "b")
		r.edges["a"].turn(well)
		r.pass(11 * time.Second)
		asked := r.edges["a"].flows()
		for range 10 {
			r.flow()
		}
		if n := r.edges["a"].flows() - asked; n != 5 {
			t.Errorf("a, which is back, took %d of 10 flows", n)
		}
		r.wantSeen(StateUp)
	})
}

// A flow that tries a lost edge may wait 10 s for it; that is for the probes.
func TestFlowsDoNotTryLostEdges(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		r.pass(5 * time.Minute)
		asked := r.edges["a"].flows()
		for range 600 {
			r.takes("b")
			r.pass(100 * time.Millisecond)
		}
		if n := r.edges["a"].flows() - asked; n != 0 {
			t.Errorf("a lost edge was asked for %d flows", n)
		}
		r.edges["b"].turn(unreached)
		if edge, err := r.flow(); edge != "b" || err == nil {
			t.Errorf("flow through %q (%v), want the error of b, which is not lost yet", edge, err)
		}
	})
}

func TestChannelThatIsDownRefusesAtOnce(t *testing.T) {
	inBubble(t, options{edges: "a x", start: map[string]connect{"a": unreached, "x": silent}}, func(t *testing.T, r *rig) {
		r.pass(time.Minute)
		r.wantState(StateDown)
		before := time.Now()
		edge, err := r.flow()
		if !errors.Is(err, ErrDown) || !errors.Is(err, errTest) || edge != "" {
			t.Errorf("flow: %v through %q, want ErrDown and its cause", err, edge)
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("the refusal took %v", d)
		}
		if n := r.edges["a"].flows() + r.edges["x"].flows(); n != 0 {
			t.Errorf("%d edges were asked", n)
		}
	})
}

func TestChannelWithoutEdgesIsDown(t *testing.T) {
	inBubble(t, options{}, func(t *testing.T, r *rig) {
		r.wantState(StateDown)
		if _, err := r.flow(); !errors.Is(err, ErrDown) {
			t.Errorf("flow: %v, want ErrDown", err)
		}
		r.pass(time.Hour)
		r.wantState(StateDown)
		r.wantSeen() // nothing changed
	})
}

func TestCloseEndsTheProbes(t *testing.T) {
	inBubble(t, options{edges: "a", start: map[string]connect{"a": silent}}, func(t *testing.T, r *rig) {
		before := time.Now()
		r.Close()
		if d := time.Since(before); d != 0 {
			t.Errorf("Close took %v during a probe without an answer", d)
		}
		r.pass(time.Minute)
		if n := len(r.edges["a"].calls); n != 1 {
			t.Errorf("%d probes, want the first one alone", n)
		}
		r.wantState(StateConnecting) // a probe that was cut short tells nothing
		r.wantSeen()
	})
}

func TestCloseWaitsForTheProbes(t *testing.T) {
	slow := func(ctx context.Context, authority string) (tunnel.Stream, error) {
		<-ctx.Done()
		return after(time.Second, unreached)(ctx, authority)
	}
	inBubble(t, options{edges: "a", start: map[string]connect{"a": slow}}, func(t *testing.T, r *rig) {
		before := time.Now()
		r.Close()
		if d := time.Since(before); d != time.Second {
			t.Errorf("Close took %v, want to wait for the probe that takes 1 s to end", d)
		}
	})
}

func TestCloseClosesEveryTunnel(t *testing.T) {
	inBubble(t, options{edges: "ab x"}, func(t *testing.T, r *rig) {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		for name, edge := range r.edges {
			if edge.closed != 1 {
				t.Errorf("the tunnel to %s was closed %d times", name, edge.closed)
			}
		}
	})
}

func TestCloseReturnsTheTunnelsErrors(t *testing.T) {
	c := &Channel{members: []*member{{tunnel: new(unclosable)}, {tunnel: &stub{}}}, cancel: func() {}}
	if err := c.Close(); !errors.Is(err, errTest) {
		t.Errorf("Close: %v, want the tunnel's error", err)
	}
}

type unclosable struct{ stub }

func (*unclosable) Close() error { return errTest }

func TestFlowsThatCloseEndsSayNothingOfTheEdges(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		closed := make(chan struct{})
		r.edges["a"].turn(func(context.Context, string) (tunnel.Stream, error) {
			<-closed
			return nil, &tunnel.StageError{Stage: tunnel.StageDial, Err: errTest}
		})
		ended := make(chan error)
		go func() {
			_, _, err := r.Connect(t.Context(), host)
			ended <- err
		}()
		synctest.Wait()
		r.Close()
		close(closed)
		if err := <-ended; !errors.Is(err, errTest) {
			t.Errorf("flow: %v, want the tunnel's error", err)
		}
		if n := r.edges["b"].flows(); n != 0 {
			t.Errorf("b was asked %d times after Close", n)
		}
		r.wantSeen(StateUp)
	})
}

func TestFlowsAndProbesDoNotDisturbEachOther(t *testing.T) {
	inBubble(t, options{edges: "abc xy", Options: Options{ProbeInterval: time.Second}}, func(t *testing.T, r *rig) {
		answers := []connect{well, unreached, silent, mute, refusing(502), after(time.Second, well), after(time.Second, unreached)}
		for round := range 30 {
			for i, name := range []string{"a", "b", "c", "x", "y"} {
				r.edges[name].turn(answers[(round*(i+1)+i)%len(answers)])
			}
			var flows sync.WaitGroup
			for range 16 {
				flows.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					r.Connect(ctx, host)
					r.Status()
				})
			}
			flows.Wait()
			r.pass(time.Second)
		}
		for _, edge := range r.edges {
			edge.turn(well)
		}
		r.pass(time.Minute)
		r.wantState(StateUp)
		asked := r.edges["a"].flows()
		for range 30 {
			r.flow()
		}
		if n := r.edges["a"].flows() - asked; n != 10 {
			t.Errorf("one of three primaries took %d of 30 flows", n)
		}
		if seen := r.seen(); len(seen) == 0 || seen[len(seen)-1] != StateUp {
			t.Errorf("OnState told of %v, want up at the end", seen)
		}
	})
}
