package channel

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

var errNoUDP = fmt.Errorf("%w: status 404", tunnel.ErrNoDatagrams)

// udp opens a flow of datagrams and returns the name of the edge that took it.
func (r *rig) udp() (string, error) {
	r.t.Helper()
	flow, edge, err := r.ConnectUDP(r.t.Context(), host)
	if (flow == nil) == (err == nil) {
		r.t.Fatalf("ConnectUDP returns flow %v and error %v", flow, err)
	}
	return edge.Host, err
}

func (r *rig) wantDatagrams(want Datagrams) {
	r.t.Helper()
	if got := r.Status().Datagrams; got != want {
		r.t.Errorf("after %v the channel's datagrams are %v, want %v", time.Since(r.began), got, want)
	}
}

func TestDatagramsAreUnknownUntilAFlowAsks(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		r.takes("a", "b")
		r.pass(time.Hour)
		r.wantDatagrams(DatagramsUnknown)
		if r.edges["a"].asked()+r.edges["b"].asked() > 0 {
			t.Error("an edge was asked for datagrams")
		}
		seen := len(r.seen())
		for range 3 {
			if edge, err := r.udp(); edge == "" || err != nil {
				t.Errorf("edge %q, error %v", edge, err)
			}
		}
		r.wantDatagrams(DatagramsCarried)
		if told := len(r.seen()) - seen; told != 1 {
			t.Errorf("OnState was called %d times, want once", told)
		}
	})
}

func TestEdgesWithoutDatagramsAreLeftToStreams(t *testing.T) {
	inBubble(t, options{edges: "ab c"}, func(t *testing.T, r *rig) {
		r.edges["a"].carryUDP(errNoUDP)
		r.edges["b"].carryUDP(errNoUDP)
		for range 6 {
			if edge, err := r.udp(); edge != "c" || err != nil {
				t.Errorf("edge %q, error %v", edge, err)
			}
		}
		if a, b := r.edges["a"].asked(), r.edges["b"].asked(); a > 1 || b > 1 {
			t.Errorf("asked %d and %d times", a, b)
		}
		r.wantDatagrams(DatagramsCarried)
		r.wantState(StateUp)
		for range 4 {
			if edge, err := r.flow(); edge != "a" && edge != "b" || err != nil {
				t.Errorf("stream through %q, error %v", edge, err)
			}
		}
	})
}

func TestChannelWithoutDatagramsSaysSoOncePerEdge(t *testing.T) {
	var log strings.Builder
	o := options{edges: "ab"}
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.edges["a"].carryUDP(errNoUDP)
		r.edges["b"].carryUDP(errNoUDP)
		seen := len(r.seen())
		for range 5 {
			if _, err := r.udp(); !errors.Is(err, tunnel.ErrNoDatagrams) {
				t.Errorf("error %v", err)
			}
		}
		r.wantDatagrams(DatagramsRefused)
		r.wantState(StateUp)
		if told := len(r.seen()) - seen; told != 1 {
			t.Errorf("OnState was called %d times, want once", told)
		}
		if n := strings.Count(log.String(), "edge carries no datagrams"); n != 2 {
			t.Errorf("logged %d times:\n%s", n, &log)
		}
	})
}

func TestEdgeThatLearnsDatagramsIsFoundByProbes(t *testing.T) {
	inBubble(t, options{edges: "a"}, func(t *testing.T, r *rig) {
		r.edges["a"].carryUDP(errNoUDP)
		r.udp()
		r.pass(datagramsPause / 2)
		if n := r.edges["a"].asked(); n != 1 {
			t.Errorf("asked %d times within the pause", n)
		}
		r.pass(datagramsPause)
		if n := r.edges["a"].asked(); n != 2 {
			t.Errorf("asked %d times after the pause", n)
		}
		r.wantDatagrams(DatagramsRefused)
		r.edges["a"].carryUDP(nil)
		r.pass(datagramsPause + 2*defaultProbeInterval)
		r.wantDatagrams(DatagramsCarried)
		asked := r.edges["a"].asked()
		r.pass(time.Hour)
		if n := r.edges["a"].asked(); n != asked {
			t.Errorf("asked %d times more", n-asked)
		}
	})
}

func TestRefusalAndSilenceSayNothingAgainstDatagrams(t *testing.T) {
	inBubble(t, options{edges: "a"}, func(t *testing.T, r *rig) {
		r.edges["a"].carryUDP(&tunnel.StageError{Stage: tunnel.StageConnect, Err: errTest})
		if _, err := r.udp(); !errors.Is(err, errTest) {
			t.Error(err)
		}
		r.wantDatagrams(DatagramsUnknown)
		r.edges["a"].carryUDP(&tunnel.RefusedError{Status: 403})
		if edge, err := r.udp(); edge != "a" || errors.Is(err, tunnel.ErrNoDatagrams) {
			t.Errorf("edge %q, error %v", edge, err)
		}
		r.wantDatagrams(DatagramsCarried)
		r.wantState(StateUp)
	})
}

func TestLostEdgeIsNoPartOfTheDatagramsThatAreKnown(t *testing.T) {
	inBubble(t, options{edges: "ab"}, func(t *testing.T, r *rig) {
		r.edges["a"].carryUDP(errNoUDP)
		for range 2 {
			r.udp()
		}
		r.wantDatagrams(DatagramsCarried)
		r.edges["b"].turn(unreached)
		for range 2 {
			r.flow()
		}
		r.pass(time.Minute)
		r.wantDatagrams(DatagramsRefused)
		r.edges["b"].turn(well)
		r.pass(time.Minute)
		r.wantDatagrams(DatagramsCarried)
	})
}

func TestChannelThatIsDownCarriesNoDatagrams(t *testing.T) {
	inBubble(t, options{}, func(t *testing.T, r *rig) {
		if _, err := r.udp(); !errors.Is(err, ErrDown) {
			t.Error(err)
		}
		synctest.Wait()
		r.wantDatagrams(DatagramsUnknown)
	})
}
