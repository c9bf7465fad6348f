package dns

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for, and is not reached unless it fails.
const patience = 20 * time.Second

// rig is a Server with everything around it made up.
type rig struct {
	*Server
	t        testing.TB
	names    *fakeNames
	upstream *fakeUpstream
	private  *fakePrivate
	origin   *fakeOrigin
	observer *fakeObserver
	stop     func()
}

func newRig(t testing.TB, server netip.AddrPort, change func(*rig, *Options)) *rig {
	t.Helper()
	r := &rig{
		t: t, names: newFakeNames(), upstream: &fakeUpstream{}, private: &fakePrivate{}, observer: &fakeObserver{},
		origin: &fakeOrigin{},
	}
	r.origin.query.Store(&flow.Query{Server: server, PID: 42, UID: 7, HasAsker: true})
	o := Options{Origin: r.origin, Names: r.names, Upstream: r.upstream, Private: r.private, Observer: r.observer}
	if change != nil {
		change(r, &o)
	}
	s, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { s.Serve(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		served.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

// client is a UDP socket connected to the server's first port.
func (r *rig) client() *net.UDPConn {
	r.t.Helper()
	port, _ := r.Port()
	conn, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.UDPConn)
}

// ask sends bytes by UDP and returns those that come back.
func (r *rig) ask(message []byte) []byte {
	r.t.Helper()
	conn := r.client()
	if _, err := conn.Write(message); err != nil {
		r.t.Fatal(err)
	}
	buffer := make([]byte, maxMessage)
	n, err := conn.Read(buffer)
	if err != nil {
		r.t.Fatalf("no answer: %v; %v", err, r.counted())
	}
	return buffer[:n]
}

// query asks by UDP with a message of the library's.
func (r *rig) query(m *wire.Msg) *wire.Msg {
	r.t.Helper()
	return unpack(r.t, r.ask(pack(r.t, m)))
}

// session is a TCP connection that ServeTCP serves.
func (r *rig) session(by flow.Query) *net.TCPConn {
	r.t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	var served sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	served.Go(func() { r.ServeTCP(ctx, accepted.(*net.TCPConn), by) })
	r.t.Cleanup(func() {
		conn.Close()
		cancel()
		served.Wait()
	})
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

func (r *rig) by() flow.Query { return *r.origin.query.Load() }

// counted returns the outcomes that happened.
func (r *rig) counted() map[Outcome]uint64 {
	counts := r.Status().Outcomes
	maps.DeleteFunc(counts, func(_ Outcome, n uint64) bool { return n == 0 })
	return counts
}

// wantCounts waits until the outcomes are those, and no others.
func (r *rig) wantCounts(want map[Outcome]uint64) {
	r.t.Helper()
	waitFor(r.t, func() bool { return maps.Equal(r.counted(), want) }, func() any { return r.counted() })
}

// waitFor polls: what the server does after an answer has left cannot be seen
// otherwise.
func waitFor(t testing.TB, done func() bool, got func() any) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("got %v", got())
		}
	}
}

func pack(t testing.TB, m *wire.Msg) []byte {
	t.Helper()
	message, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func unpack(t testing.TB, message []byte) *wire.Msg {
	t.Helper()
	m := new(wire.Msg)
	if err := m.Unpack(message); err != nil {
		t.Fatalf("%v: % x", err, message)
	}
	return m
}

func records(section []wire.RR) (texts []string) {
	for _, rr := range section {
		texts = append(texts, rr.String())
	}
	return texts
}
