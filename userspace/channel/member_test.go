package channel

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

func TestStateFollowsTheEdges(t *testing.T) {
	slow := after(time.Second, well)
	inBubble(t, options{edges: "a", start: map[string]connect{"a": slow}}, func(t *testing.T, r *rig) {
		r.wantState(StateConnecting)
		r.wantSeen()
		if s := r.Status(); !s.Since.Equal(r.began) || s.Edge != "" {
			t.Errorf("a new channel is %+v", s)
		}
		r.pass(time.Second)
		r.wantState(StateUp)
		if s := r.Status(); s.Since.Sub(r.began) != time.Second || s.Edge != "a:443" {
			t.Errorf("a channel that is up is %+v", s)
		}

		r.edges["a"].turn(unreached)
		r.pass(20 * time.Second)
		r.wantState(StateDown)
		s := r.Status()
		if s.Cause != "a:443: dial: connection refused" || s.Edge != "" {
			t.Errorf("a channel that is down is %+v", s)
		}
		r.pass(time.Hour)
		if now := r.Status(); now != s {
			t.Errorf("after an hour it is %+v, before it was %+v", now, s)
		}

		r.edges["a"].turn(well)
		r.pass(11 * time.Second)
		r.wantState(StateUp)
		r.wantSeen(StateUp, StateDown, StateUp)
		r.takes("a")
	})
}

func TestOneLostConnectionDoesNotTakeTheChannelDown(t *testing.T) {
	inBubble(t, options{edges: "a"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		for range 20 { // flows that meet the same failure
			if _, err := r.flow(); !errors.Is(err, errTest) || errors.Is(err, ErrDown) {
				t.Fatalf("flow: %v, want the edge's error", err)
			}
		}
		r.wantState(StateUp)
		r.edges["a"].turn(well)
		r.takes("a") // also before the next probe
		r.pass(time.Minute)
		r.wantSeen(StateUp)

		r.edges["a"].turn(unreached)
		r.flow()
		r.pass(600 * time.Millisecond) // the probe is the second failure
		r.wantState(StateDown)
		r.wantSeen(StateUp, StateDown)
	})
}

func TestFlowsThatFailTogetherAreOneFailure(t *testing.T) {
	inBubble(t, options{edges: "a"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(after(time.Second, unreached))
		var flows sync.WaitGroup
		for range 50 {
			flows.Go(func() { r.flow() })
		}
		synctest.Wait()
		r.edges["a"].turn(well)
		flows.Wait()
		r.pass(time.Minute)
		r.wantSeen(StateUp)
		if n := len(r.edges["a"].probes()); n > 8 {
			t.Errorf("%d probes in a minute", n)
		}
	})
}

func TestEdgeThatNeverAnsweredIsLostAtOnce(t *testing.T) {
	inBubble(t, options{edges: "ab", start: map[string]connect{"a": unreached, "b": unreached}}, func(t *testing.T, r *rig) {
		if d := time.Since(r.began); d != 0 {
			t.Errorf("%v have passed", d)
		}
		r.wantState(StateDown)
		r.wantSeen(StateDown)
		if s := r.Status(); !strings.HasPrefix(s.Cause, "a:443: ") {
			t.Errorf("cause %q, want the first edge's", s.Cause)
		}
	})
}

func TestEdgesAreTriedInOrderUntilOneAnswers(t *testing.T) {
	inBubble(t, options{edges: "ab xy", start: map[string]connect{"a": unreached, "b": unreached}}, func(t *testing.T, r *rig) {
		r.wantState(StateUp)
		r.wantSeen(StateUp)
		if s := r.Status(); s.Edge != "x:443" || !s.Since.Equal(r.began) {
			t.Errorf("the channel is %+v, want it up by x at once", s)
		}
		if n := len(r.edges["y"].calls); n != 0 {
			t.Errorf("y was asked %d times", n)
		}
	})
}

func TestChannelConnectsWhileAnEdgeIsUnknown(t *testing.T) {
	inBubble(t, options{edges: "a x"}, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		r.edges["x"].turn(silent)
		r.pass(11 * time.Second) // a is lost, x is being asked
		r.wantState(StateConnecting)
		r.pass(5 * time.Second)
		r.wantState(StateDown)
		r.wantSeen(StateUp, StateConnecting, StateDown)
	})
}

func TestStatusIsPrintable(t *testing.T) {
	hostile := errors.New("\x1b[2J\u202e\xff" + strings.Repeat("é", 1<<20))
	inBubble(t, options{edges: "a", start: map[string]connect{
		"a": func(context.Context, string) (tunnel.Stream, error) {
			return nil, &tunnel.StageError{Stage: tunnel.StageTLS, Err: hostile}
		},
	}}, func(t *testing.T, r *rig) {
		s := r.Status()
		if len(s.Cause) > 2*maxText || strings.ContainsAny(s.Cause, "\x1b\u202e") || !utf8.ValidString(s.Cause) {
			t.Errorf("cause %q", s.Cause)
		}
	})
}

func TestJitterIsATenth(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Millisecond, firstBackoff, time.Hour, 1<<32*time.Second - 1} {
		least, most := d, d
		for range 1000 {
			j := jitter(d)
			least, most = min(least, j), max(most, j)
		}
		if least < d-d/20 || most > d+d/20+1 {
			t.Errorf("jitter(%v) is %v to %v", d, least, most)
		}
		if d >= time.Millisecond && most-least < d/11 {
			t.Errorf("jitter(%v) is only %v to %v", d, least, most)
		}
	}
}

func TestStateHasItsNameInLowerCase(t *testing.T) {
	for state, want := range map[State]string{
		0: "state(0)", StateConnecting: "connecting", StateUp: "up", StateDown: "down", 4: "state(4)",
	} {
		if got := state.String(); got != want {
			t.Errorf("State %d is %q, want %q", uint8(state), got, want)
		}
	}
}
