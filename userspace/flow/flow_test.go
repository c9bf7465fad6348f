package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testRecord = Record{
	OrigDst:    netip.MustParseAddrPort("192.0.2.7:443"),
	Rule:       3,
	Generation: 9,
	PID:        42,
	UID:        1000,
}

func TestFlowShowsWhatIsKnownOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		live := NewTable(0).Open(testRecord)
		want := Flow{
			ID: 1, OrigDst: testRecord.OrigDst, Generation: 9, PID: 42, UID: 1000,
			State: StateActive, Started: start,
		}
		wantFlow(t, live, want)

		live.SetRoute(Route{Name: "host.example", Rule: "r3", Channel: "private", Edge: "edge.example:443", Status: 200})
		live.AddSent(10)
		live.AddSent(1)
		live.AddReceived(7)
		want.Name, want.Rule, want.Channel, want.Edge = "host.example", "r3", "private", "edge.example:443"
		want.Status, want.BytesSent, want.BytesReceived = 200, 11, 7
		wantFlow(t, live, want)

		time.Sleep(time.Minute) // of the bubble's clock
		live.Close(Outcome{StateReset, "edge reset"})
		want.State, want.Cause, want.Ended = StateReset, "edge reset", start.Add(time.Minute)
		wantFlow(t, live, want)

		time.Sleep(time.Minute)
		live.Close(Outcome{State: StateClosed}) // only the first end counts
		wantFlow(t, live, want)
	})
}

func wantFlow(t *testing.T, live *Live, want Flow) {
	t.Helper()
	if diff := cmp.Diff(want, live.Flow(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
}

func TestFlowAsJSON(t *testing.T) {
	started := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name string
		flow Flow
		want string
	}{
		{
			"active",
			Flow{ID: 1, OrigDst: testRecord.OrigDst, Rule: "r", Channel: "c", Edge: "e:1", State: StateActive, Started: started},
			`{"id":1,"protocol":"tcp","orig_dst":"192.0.2.7:443","rule":"r","channel":"c","edge":"e:1","generation":0,"pid":0,"uid":0,` +
				`"state":"active","bytes_sent":0,"bytes_received":0,"started":"2030-01-02T03:04:05Z"}`,
		},
		{
			"datagrams of a container",
			Flow{
				ID: 3, Protocol: UDP, OrigDst: testRecord.OrigDst, Source: netip.MustParseAddrPort("192.0.2.2:5000"),
				Forwarded: true, Container: "docker web", State: StateActive, DatagramsSent: 2, DatagramsReceived: 1,
				Started: started,
			},
			`{"id":3,"protocol":"udp","orig_dst":"192.0.2.7:443","source":"192.0.2.2:5000","forwarded":true,` +
				`"container":"docker web","rule":"","channel":"","edge":"","generation":0,"pid":0,"uid":0,"state":"active",` +
				`"bytes_sent":0,"bytes_received":0,"datagrams_sent":2,"datagrams_received":1,"started":"2030-01-02T03:04:05Z"}`,
		},
		{
			"refused",
			Flow{
				ID: 2, OrigDst: netip.MustParseAddrPort("[2001:db8::1]:22"), Name: "n", Command: "ssh", State: StateRefused,
				Cause: "why", Status: 403, BytesSent: 1 << 63, Started: started, Ended: started,
			},
			`{"id":2,"protocol":"tcp","orig_dst":"[2001:db8::1]:22","name":"n","rule":"","channel":"","edge":"","generation":0,"pid":0,"uid":0,` +
				`"command":"ssh","state":"refused","cause":"why","status":403,"bytes_sent":9223372036854775808,` +
				`"bytes_received":0,"started":"2030-01-02T03:04:05Z","ended":"2030-01-02T03:04:05Z"}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := json.Marshal(test.flow)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(text)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
			var back Flow
			if err := json.Unmarshal(text, &back); err != nil || back != test.flow {
				t.Errorf("read back %+v, %v; want %+v", back, err, test.flow)
			}
		})
	}
}

func TestDatagramFlowShowsWhereItComesFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := Record{
			OrigDst: testRecord.OrigDst, Protocol: UDP, Source: netip.MustParseAddrPort("192.0.2.2:5000"), Forwarded: true,
		}
		live := NewTable(0).Open(rec)
		live.AddSentDatagrams(3, 30)
		live.AddReceivedDatagrams(1, 9)
		live.SetContainer("docker web")
		wantFlow(t, live, Flow{
			ID: 1, Protocol: UDP, OrigDst: rec.OrigDst, Source: rec.Source, Forwarded: true, Container: "docker web",
			State: StateActive, BytesSent: 30, BytesReceived: 9, DatagramsSent: 3, DatagramsReceived: 1, Started: time.Now(),
		})
	})
}

func TestProtocolHasAName(t *testing.T) {
	for protocol, want := range map[Protocol]string{TCP: "tcp", UDP: "udp", UDP + 1: "protocol(2)"} {
		if got := fmt.Sprint(protocol); got != want {
			t.Errorf("protocol %d is %q, want %q", protocol, got, want)
		}
	}
	for _, text := range []string{"", "TCP", "any", "protocol(0)"} {
		protocol := UDP
		if err := protocol.UnmarshalText([]byte(text)); err == nil || protocol != UDP {
			t.Errorf("%q is read as %v, %v; want an error", text, protocol, err)
		}
	}
}

func TestStateHasAName(t *testing.T) {
	for state, want := range map[State]string{
		0: "state(0)", StateActive: "active", StateClosed: "closed", StateReset: "reset",
		StateRefused: "refused", StateFailed: "failed", StateFailed + 1: "state(6)",
	} {
		if got := fmt.Sprint(state); got != want {
			t.Errorf("state %d is %q, want %q", state, got, want)
		}
	}
	for _, text := range []string{"", "Active", "state(0)"} {
		state := StateClosed
		if err := state.UnmarshalText([]byte(text)); err == nil || state != StateClosed {
			t.Errorf("%q is read as %v, %v; want an error", text, state, err)
		}
	}
}
