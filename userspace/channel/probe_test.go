package channel

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// gaps are the times between calls.
func gaps(at []time.Duration) []time.Duration {
	var between []time.Duration
	for i := range max(0, len(at)-1) {
		between = append(between, at[i+1]-at[i])
	}
	return between
}

// within reports whether d is want, spread by a tenth.
func within(d, want time.Duration) bool { return d >= want-want/20 && d <= want+want/20+1 }

func TestEdgeInUseIsProbedAtEachInterval(t *testing.T) {
	for name, test := range map[string]struct{ interval, want time.Duration }{
		"default":  {0, 10 * time.Second},
		"own":      {time.Minute, time.Minute},
		"no sense": {-time.Minute, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			o := options{edges: "a", Options: Options{ProbeInterval: test.interval}}
			inBubble(t, o, func(t *testing.T, r *rig) {
				r.pass(100 * test.want)
				at := r.edges["a"].probes()
				if len(at) < 95 || at[0] != 0 {
					t.Fatalf("%d probes in 100 intervals, the first after %v", len(at), at[0])
				}
				for _, gap := range gaps(at) {
					if !within(gap, test.want) {
						t.Errorf("%v between two probes, want about %v", gap, test.want)
					}
				}
				if g := gaps(at); slices.Min(g) == slices.Max(g) {
					t.Errorf("every two probes are %v apart: there is no jitter", g[0])
				}
			})
		})
	}
}

func TestFailingEdgeIsProbedWithGrowingPauses(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		interval time.Duration
		want     []time.Duration
	}{
		"up to the interval":             {10 * s, []time.Duration{s / 2, s, 2 * s, 4 * s, 8 * s, 10 * s, 10 * s, 10 * s}},
		"up to a short interval":         {s, []time.Duration{s / 2, s, s, s}},
		"never past half a minute":       {time.Hour, []time.Duration{s / 2, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}},
		"at an interval below the first": {s / 10, []time.Duration{s / 10, s / 10}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options{edges: "a", start: map[string]connect{"a": unreached}, Options: Options{ProbeInterval: test.interval}}
			inBubble(t, o, func(t *testing.T, r *rig) {
				d := 100 * slices.Max(test.want)
				r.pass(d)
				got := gaps(r.edges["a"].probes())
				for i, gap := range got {
					if want := test.want[min(i, len(test.want)-1)]; !within(gap, want) {
						t.Fatalf("%v after failure %d, want about %v", gap, i+1, want)
					}
				}
				if len(got) < 90 {
					t.Errorf("%d probes in %v", len(got), d)
				}
			})
		})
	}
}

func TestRecoveredEdgeStartsWithTheShortestPauseAgain(t *testing.T) {
	inBubble(t, options{edges: "a", start: map[string]connect{"a": unreached}}, func(t *testing.T, r *rig) {
		r.pass(time.Hour)
		r.edges["a"].turn(well)
		r.pass(time.Minute)
		r.edges["a"].turn(unreached)
		before := len(r.edges["a"].probes())
		r.pass(15 * time.Second)
		got := gaps(r.edges["a"].probes()[before:])
		if len(got) < 2 || !within(got[0], firstBackoff) || !within(got[1], 2*firstBackoff) {
			t.Errorf("the pauses after a recovery are %v", got)
		}
	})
}

func TestOnlyEdgesInUseAndFailingOnesAreProbed(t *testing.T) {
	inBubble(t, options{edges: "abc xy"}, func(t *testing.T, r *rig) {
		probed := func(d time.Duration) (names string) {
			t.Helper()
			before := make(map[string]int)
			for name, edge := range r.edges {
				before[name] = len(edge.probes())
			}
			r.pass(d)
			for _, name := range []string{"a", "b", "c", "x", "y"} {
				if len(r.edges[name].probes()) > before[name] {
					names += name
				}
			}
			return names
		}
		if got := probed(time.Minute); got != "a" {
			t.Errorf("without flows %q are probed, want the first primary", got)
		}
		r.takes("a", "b", "c", "a")
		if got := probed(11 * time.Second); got != "abc" {
			t.Errorf("%q are probed, want those that flows took", got)
		}
		if got := probed(time.Minute); got != "b" {
			t.Errorf("%q are probed, want the one that the next flow takes", got)
		}
		r.edges["b"].turn(unreached)
		r.takes("c")
		if got := probed(time.Minute); got != "bc" {
			t.Errorf("%q are probed, want b that fails and its stand-in", got)
		}
	})
}

func TestProbesOfDeadEdgesAreBoundedWhateverFlowsWant(t *testing.T) {
	dead := map[string]connect{"a": unreached, "b": silent, "x": unreached}
	inBubble(t, options{edges: "ab x", start: dead}, func(t *testing.T, r *rig) {
		r.pass(probeTimeout)
		r.wantState(StateDown)
		for range 3600 {
			for range 10 {
				r.flow()
			}
			r.pass(time.Second)
		}
		r.wantSeen(StateDown)
		for name, edge := range r.edges {
			if n := len(edge.probes()); n < 200 || n > 400 {
				t.Errorf("%d probes of %s in an hour", n, name)
			}
			if n := edge.flows(); n != 0 {
				t.Errorf("%s was tried for %d flows", name, n)
			}
		}
	})
}

func TestProbeWithoutAnswerEndsInTime(t *testing.T) {
	inBubble(t, options{edges: "a", start: map[string]connect{"a": silent}}, func(t *testing.T, r *rig) {
		r.pass(probeTimeout - 1)
		r.wantState(StateConnecting)
		r.pass(1)
		r.wantState(StateDown)
		if s := r.Status(); s.Cause != "a:443: dial: no answer in time" {
			t.Errorf("cause %q", s.Cause)
		}
	})
}

func TestSilentEdgesDelayTheProbeOfAnotherByOneAtMost(t *testing.T) {
	inBubble(t, options{edges: "abc", start: map[string]connect{"a": silent, "b": silent, "c": unreached}}, func(t *testing.T, r *rig) {
		r.pass(time.Minute)
		r.wantState(StateDown)
		r.edges["c"].turn(well)
		r.pass(defaultProbeInterval*21/20 + probeTimeout)
		r.wantState(StateUp)
		r.takes("c")
	})
}

// mute is an edge that takes CONNECTs and answers none.
func mute(ctx context.Context, _ string) (tunnel.Stream, error) {
	<-ctx.Done()
	return nil, &tunnel.StageError{Stage: tunnel.StageConnect, Err: context.Cause(ctx)}
}

func TestEdgeThatWaitsForTheDiagnosticHostIsWell(t *testing.T) {
	waits := func(ctx context.Context, authority string) (tunnel.Stream, error) {
		if authority == "ping.example:443" {
			return mute(ctx, authority)
		}
		return quiet{}, nil
	}
	o := options{edges: "a", start: map[string]connect{"a": waits}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example/ping"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.wantState(StateConnecting)
		r.pass(time.Hour)
		r.wantState(StateUp)
		r.wantSeen(StateUp)
		if s := r.Status(); s.Diagnostic != "connect: no answer in time" {
			t.Errorf("diagnostic %q", s.Diagnostic)
		}
	})
}

func TestEdgeThatAnswersNothingIsLost(t *testing.T) {
	o := options{edges: "a", start: map[string]connect{"a": mute}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example/ping"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.pass(2 * probeTimeout)
		r.wantState(StateDown)
		if s := r.Status(); s.Cause != "a:443: connect: no answer in time" || s.Diagnostic != "" {
			t.Errorf("status %+v", s)
		}
	})
}

func TestEdgeThatIsNotReachedIsAskedOnce(t *testing.T) {
	o := options{edges: "a", start: map[string]connect{"a": unreached}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example/ping"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.pass(time.Minute)
		if n, itself := len(r.edges["a"].times("ping.example:443")), len(r.edges["a"].probes()); n < 7 || itself != 0 {
			t.Errorf("the edge was asked %d times for the host and %d times for itself", n, itself)
		}
	})
}

func TestRetryFindsEdgesThatAreBackAtOnce(t *testing.T) {
	for name, out := range map[string]connect{"refused": unreached, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			o := options{edges: "a b", start: map[string]connect{"a": out, "b": out}, Options: Options{ProbeInterval: time.Hour}}
			inBubble(t, o, func(t *testing.T, r *rig) {
				r.pass(10*time.Minute + time.Second) // pauses are 30 s by now, and a silent edge is being asked
				r.wantState(StateDown)
				for _, e := range r.edges {
					e.turn(well)
				}
				r.Retry()
				r.pass(time.Millisecond)
				r.wantState(StateUp)
				r.takes("a")
			})
		})
	}
}

func TestRetryThatFailsPausesAsAfterTheFirstFailures(t *testing.T) {
	o := options{edges: "a", start: map[string]connect{"a": unreached}}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.pass(time.Minute)
		r.wantState(StateDown)
		before := len(r.edges["a"].probes())
		r.Retry()
		r.pass(4 * time.Second)
		if n := len(r.edges["a"].probes()) - before; n != 2 {
			t.Errorf("%d probes within 4 s, want one at once and one after 2 s", n)
		}
		r.wantState(StateDown)
	})
}
