package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

func (s *packetSite) checkBoundStreams(t *testing.T) {
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	testutil.Respond(t, s.net, "[::]:23", greet)
	const to4, to6 = "192.168.11.200:22", "[2001:db8:11::200]:23"
	for _, from := range s.places() {
		for _, way := range []string{"plain", "device=" + from.device, "source"} {
			for family, to := range map[string]string{"udp4": to4, "udp6": to6} {
				bound := way
				if way == "source" {
					bound += "=" + at(from.sources[family], 0)
				}
				got := testutil.Child(t, from.namespace, s.cgroup, "connect", bound, to)
				if want := greeted(to) + "\n"; got != want {
					t.Errorf("%s of the %s: got %q, want %q", bound, from.name, got, want)
					continue
				}
				f := s.endedFlow(t, to)
				if f.Rule != "open" || f.Status != http.StatusOK || f.Forwarded != (from.name == "container") {
					t.Errorf("%s of the %s: flow by rule %q with status %d, forwarded %t", bound, from.name, f.Rule, f.Status, f.Forwarded)
				}
				packets := way != "plain" || from.name == "container"
				if f.Source.IsValid() != packets {
					t.Errorf("%s of the %s: flow from %s, want one by the packet path: %t", bound, from.name, f.Source, packets)
				}
			}
		}
	}
}

// What TCP promises is kept on the way through an enclave, too.
func (s *packetSite) checkWholeStreams(t *testing.T) {
	testutil.Echo(t, s.net, "192.168.11.1:443")
	testutil.Respond(t, s.net, "192.168.11.1:80", func(conn *net.TCPConn) {
		if question, err := io.ReadAll(conn); err == nil {
			fmt.Fprintf(conn, "answer to %s", question)
		}
	})
	testutil.Respond(t, s.net, "192.168.11.1:22", func(conn *net.TCPConn) {
		conn.Read(make([]byte, 64))
		conn.SetLinger(0)
	})
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	size := 64 << 20
	if testing.Short() {
		size = 2 << 20
	}
	for _, test := range []struct{ way, to, want string }{
		{"bulk=" + strconv.Itoa(size), "192.168.11.1:443", fmt.Sprintf("%d bytes came back", size)},
		{"ask=question", "192.168.11.1:80", "answer to question"},
		{"listen=what now?", "192.168.11.1:22", "ECONNRESET"},
	} {
		if got := testutil.Child(t, s.container, s.cgroup, "exchange", test.way, test.to); got != test.want {
			t.Errorf("%s: got %q, want %q", test.way, got, test.want)
		}
	}
	curl := testutil.Command(t, testutil.Program(t, "curl"), "--silent", "--show-error", "--max-time", "60", "--noproxy", "*",
		"--write-out", " peer %{remote_ip}:%{remote_port} status %{http_code}", "http://"+webAddr+"/")
	if got, err := testutil.Output(t, s.container, s.cgroup, curl); got != fromWeb(webAddr+":80") || err != nil {
		t.Errorf("curl: got %q, %v", got, err)
	}
}

func (s *packetSite) checkRefusedStreams(t *testing.T) {
	const to = "192.168.11.1:81" // where nobody listens
	if got, want := testutil.Child(t, s.container, s.cgroup, "connect", "plain", to), "ECONNRESET\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if f := s.endedFlow(t, to); f.State != flow.StateRefused || !f.Forwarded {
		t.Errorf("flow is %s, forwarded %t, want a refused one of the container", f.State, f.Forwarded)
	}
}

// With containers = "off" what the host forwards is none of the agent's business.
func TestContainersCanBeLeftAlone(t *testing.T) {
	s := newPacketSite(t)
	s.direct = true
	s.config.Packet.Containers = "off"
	s.startPacketEdge(t)
	s.start(t)
	own, theirs := s.speaker(t, s.host), s.speaker(t, s.container)
	const to = "192.168.11.1:4433"
	own.want(t, "opened", "open", "a", "udp4")
	own.want(t, echoed(to, 100), "echo", "a", to, 100)
	if seen := s.seen(t); seen != "" {
		t.Errorf("of the host's own flow there was %s", seen)
	}
	theirs.want(t, "opened", "open", "a", "udp4")
	theirs.want(t, "sent", "send", "a", to, 100)
	await(t, "the container's datagram on the wire", func() bool { return s.counted(t, s.wire)["open"] == 1 })
	s.stop(t)
}

// A client in a private network that reaches the host without an edge gets its
// answers the way it came, and not from a flow that the agent makes of them.
func TestAnswersOfTheHostsOwnServersAreNotAcquired(t *testing.T) {
	const client4, client6 = "192.168.11.77", "2001:db8:11::77"
	s := newPacketSite(t)
	s.direct = true
	for _, addr := range prefixes(client4+"/32", client6+"/128") {
		if err := s.wire.AddAddr("lo", addr); err != nil {
			t.Fatal(err)
		}
	}
	s.nft(t, s.wire, "flush chain inet wire arrive\n") // which would drop the answers
	s.startPacketEdge(t)
	testutil.EchoDatagrams(t, s.host, 5000)
	testutil.Respond(t, s.host, "0.0.0.0:5001", greet)
	testutil.Respond(t, s.host, "[::]:5002", greet)
	s.start(t)
	p := s.speaker(t, s.wire)
	for _, test := range []struct{ family, client, host, tcp string }{
		{"udp4", client4, uplinkAddr4, at(uplinkAddr4, 5001)},
		{"udp6", client6, uplinkAddr6, at(uplinkAddr6, 5002)},
	} {
		source := "source=" + at(test.client, 0)
		// For a while after each policy, what comes may be answers to flows that
		// were direct before it.
		await(t, "a client that is answered", func() bool {
			p.want(t, "opened", "open", "early", test.family, source)
			p.want(t, "sent", "send", "early", at(test.host, 5000), 10)
			answered := p.do(t, "hear", "early", 500) != "EAGAIN"
			p.want(t, "closed", "close", "early")
			return answered
		})
		p.want(t, "opened", "open", test.family, test.family, source)
		for _, size := range []int{10, 4000} {
			p.want(t, echoed(at(test.host, 5000), size), "echo", test.family, at(test.host, 5000), size)
		}
		got := testutil.Child(t, s.wire, "", "connect", source, test.tcp)
		if want := greeted(test.tcp) + "\n"; got != want {
			t.Errorf("connection to the host: got %q, want %q", got, want)
		}
	}
	list, err := s.control.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var late bytes.Buffer
	for _, f := range list.Flows {
		if f.OrigDst.Addr().String() == client4 || f.OrigDst.Addr().String() == client6 {
			fmt.Fprintf(&late, "%s to %s with %d datagrams\n", f.Protocol, f.OrigDst, f.DatagramsSent)
		}
	}
	t.Logf("flows to the client, of before the agent listened:\n%s", &late)
	s.stop(t)
}
