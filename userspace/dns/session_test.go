package dns

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func send(t testing.TB, conn net.Conn, messages ...[]byte) {
	t.Helper()
	for _, message := range messages {
		if _, err := conn.Write(framed(message)); err != nil {
			t.Fatal(err)
		}
	}
}

func receive(t testing.TB, conn net.Conn) []byte {
	t.Helper()
	message, err := readFramed(conn)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// rawTCP serves one TCP connection after another.
func rawTCP(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestTCPIsForwardedAsItIs(t *testing.T) {
	for _, route := range []Route{RouteDirect, RouteTunnel} {
		t.Run([]string{"direct", "tunnel"}[route], func(t *testing.T) {
			query := append(unhex(t, plainHeader+plainQuestion), make([]byte, maxMessage-27)...)
			answer := append(unhex(t, "1234 8180 0001 0000 0000 0000 "+plainQuestion), bytes.Repeat([]byte{7}, maxMessage-27)...)
			var got []byte
			server := rawTCP(t, func(conn net.Conn) {
				got, _ = readFramed(conn)
				conn.Write(framed(answer))
				conn.Write(framed(answer)) // as transfers of zones have many
				io.Copy(io.Discard, conn)
			})
			r := newRig(t, server, func(r *rig, _ *Options) { r.upstream.route = route })
			conn := r.session(r.by())
			send(t, conn, query)
			for range 2 {
				if back := receive(t, conn); !bytes.Equal(back, answer) {
					t.Errorf("%d bytes came back", len(back))
				}
			}
			conn.CloseWrite()
			if rest, err := io.ReadAll(conn); len(rest) != 0 || err != nil {
				t.Errorf("the end is % x, %v", rest, err)
			}
			if !bytes.Equal(got, query) {
				t.Errorf("server got %d bytes", len(got))
			}
			outcome := []Outcome{OutcomeForwarded, OutcomeTunneled}[route]
			r.wantCounts(map[Outcome]uint64{outcome: 2})
			if n := r.upstream.tunnels.Load(); n != int64(route) {
				t.Errorf("%d tunnels", n)
			}
		})
	}
}

func TestTCPAnswersComeAsTheyAreReady(t *testing.T) {
	hold := make(chan struct{})
	server := rawTCP(t, func(conn net.Conn) {
		query, err := readFramed(conn)
		if err != nil {
			return
		}
		<-hold
		query[2] |= 0x80
		conn.Write(framed(query))
		io.Copy(io.Discard, conn)
	})
	r := newRig(t, server, nil)
	r.names.acquire(acquiredName, acquired())
	r.names.give(acquiredName, Address{IPv4: netip.MustParseAddr("6.6.0.1")})
	conn := r.session(r.by())
	slow := new(wire.Msg).SetQuestion("slow.example.", wire.TypeA)
	own := new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeAAAA)
	both := append(framed(pack(t, slow)), framed(pack(t, own))...)
	if _, err := conn.Write(both); err != nil { // in one segment
		t.Fatal(err)
	}
	if m := unpack(t, receive(t, conn)); m.Id != own.Id || m.Question[0].Name != acquiredName+"." {
		t.Errorf("first came %v", m)
	}
	close(hold)
	if m := unpack(t, receive(t, conn)); m.Id != slow.Id {
		t.Errorf("then came %v", m)
	}
}

func TestTCPConnectionIsReused(t *testing.T) {
	upstream := newResolver(t, zone("a.example. 5 IN A 192.0.2.7"))
	r := newRig(t, upstream.at, nil)
	conn := r.session(r.by())
	for range 3 {
		send(t, conn, pack(t, new(wire.Msg).SetQuestion("a.example.", wire.TypeA)))
		if m := unpack(t, receive(t, conn)); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
	}
	if n := r.upstream.dials.Load(); n != 1 {
		t.Errorf("%d connections for one", n)
	}
	want := ServerStatus{Server: upstream.at, Queries: 3, Answers: 3}
	got := r.Status().Servers
	if len(got) != 1 || got[0].Queries != want.Queries || got[0].Answers != want.Answers {
		t.Errorf("servers %+v", got)
	}
}

func TestTCPServerThatIsNotThereResets(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	r := newRig(t, server, nil)
	conn := r.session(r.by())
	send(t, conn, unhex(t, plainHeader+plainQuestion))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client got %v", err)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeConnectionUnreachable: 1})
}

func TestTCPEndsAsTheServerEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		reset bool
		want  error
	}{{"in order", false, io.EOF}, {"with a reset", true, syscall.ECONNRESET}} {
		t.Run(test.name, func(t *testing.T) {
			server := rawTCP(t, func(conn net.Conn) {
				readFramed(conn)
				if test.reset {
					conn.(*net.TCPConn).SetLinger(0)
				}
			})
			r := newRig(t, server, nil)
			conn := r.session(r.by())
			send(t, conn, unhex(t, plainHeader+plainQuestion))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, test.want) {
				t.Errorf("client got %v, want %v", err, test.want)
			}
		})
	}
}

func TestTCPThatSaysNothingIsClosed(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
		bytes  []byte
	}{
		{"nothing", Limits{Idle: 30 * time.Millisecond}, nil},
		{"half a length", Limits{Message: 30 * time.Millisecond}, []byte{0}},
		{"half a message", Limits{Message: 30 * time.Millisecond}, []byte{0, 50, 1, 2, 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, netip.MustParseAddrPort("127.0.0.1:9"), func(_ *rig, o *Options) { o.Limits = test.limits })
			conn := r.session(r.by())
			conn.Write(test.bytes)
			if _, err := conn.Read(make([]byte, 1)); err == nil || expired(err) {
				t.Errorf("client got %v", err)
			}
			r.wantCounts(map[Outcome]uint64{OutcomeConnectionIdle: 1})
			waitFor(t, func() bool { return r.Status().Connections == 0 }, func() any { return r.Status().Connections })
		})
	}
}

func TestTCPThatIsNoDNSIsClosed(t *testing.T) {
	r := newRig(t, netip.MustParseAddrPort("127.0.0.1:9"), nil)
	conn := r.session(r.by())
	conn.Write([]byte{0, 4, 'G', 'E', 'T', ' ', '/'})
	if _, err := conn.Read(make([]byte, 1)); err == nil || expired(err) {
		t.Errorf("client got %v", err)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeMalformed: 1})
}

func TestTCPConnectionsAreBounded(t *testing.T) {
	for _, test := range []struct {
		name    string
		limits  Limits
		outcome Outcome
	}{
		{"in all", Limits{Connections: 2}, OutcomeConnectionLimited},
		{"of a process", Limits{ConnectionsPerProcess: 2}, OutcomeConnectionProcessLimited},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, netip.MustParseAddrPort("127.0.0.1:9"), func(_ *rig, o *Options) { o.Limits = test.limits })
			first := r.session(r.by())
			r.session(r.by())
			waitFor(t, func() bool { return r.Status().Connections == 2 }, func() any { return r.Status().Connections })
			third := r.session(r.by())
			if _, err := third.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the third got %v", err)
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 1})
			first.Close()
			waitFor(t, func() bool { return r.Status().Connections == 1 }, func() any { return r.Status().Connections })
		})
	}
}

func TestTCPQueriesWaitForTheirTurn(t *testing.T) {
	upstream := newResolver(t, zone())
	r := newRig(t, upstream.at, func(_ *rig, o *Options) { o.Limits.QueriesPerProcess = 1 })
	r.names.hold = make(chan struct{})
	r.names.acquire(acquiredName, acquired())
	conn := r.session(flow.Query{Server: upstream.at, PID: 3, HasAsker: true})
	var sent []uint16
	for range 3 {
		m := new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)
		sent = append(sent, m.Id)
		send(t, conn, pack(t, m))
	}
	waitFor(t, func() bool { return r.Status().Pending == 1 }, func() any { return r.Status().Pending })
	close(r.names.hold)
	var got []uint16
	for range 3 {
		got = append(got, unpack(t, receive(t, conn)).Id)
	}
	if !slices.Equal(got, sent) {
		t.Errorf("answers %v, want %v", got, sent)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 3})
}
