package datagram_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/datagram"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// patience is for what comes at once, on a machine that has something else to do.
const patience = 30 * time.Second

// far4 and far6 are destinations that only the relay's namespace knows.
const (
	far4 = "203.0.113.7"
	far6 = "2001:db8:7::7"
)

// edge is a Dialer whose flows answer each datagram with itself.
type edge struct {
	dialed  atomic.Int32
	answers chan struct{} // if not nil, is waited for by each dial
	refuse  error         // of each dial
	end     error         // of each flow, at its first datagram
	full    bool          // each flow drops all
}

func (e *edge) Dial(ctx context.Context, rec flow.Record) (datagram.Datagrams, flow.Route, error) {
	e.dialed.Add(1)
	route := flow.Route{Rule: "r1", Channel: "Private", Edge: "edge.example:443"}
	if e.answers != nil {
		select {
		case <-e.answers:
		case <-ctx.Done():
			return nil, route, ctx.Err()
		}
	}
	if e.refuse != nil {
		route.Status = 403
		return nil, route, e.refuse
	}
	route.Status = 200
	return &loop{batches: make(chan [][]byte, 1024), closed: make(chan struct{}), end: e.end, full: e.full}, route, nil
}

// loop is a flow of an edge.
type loop struct {
	batches chan [][]byte
	closed  chan struct{}
	once    sync.Once
	end     error
	full    bool
	dropped atomic.Uint64
}

func (l *loop) Send(batch [][]byte) error {
	if l.full {
		l.dropped.Add(uint64(len(batch)))
		return nil
	}
	kept := make([][]byte, len(batch))
	for i, p := range batch {
		kept[i] = bytes.Clone(p)
	}
	select {
	case l.batches <- kept:
	default:
	}
	return nil
}

func (l *loop) Dropped() uint64 { return l.dropped.Load() }

func (l *loop) Receive(deliver func([][]byte)) error {
	for {
		select {
		case batch := <-l.batches:
			if l.end != nil {
				return l.end
			}
			deliver(batch)
		case <-l.closed:
			return net.ErrClosed
		}
	}
}

func (l *loop) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// bed is a relay in a namespace to which every far destination leads.
type bed struct {
	client *netns.Namespace
	inside *netns.Namespace // where the relay is
	relay  *datagram.Relay
	flows  *flow.Table
	ports  map[string]int // of the receiving sockets, by address
}

func newBed(t testing.TB, e datagram.Dialer, limits datagram.Limits) *bed {
	t.Helper()
	testutil.Privileged(t)
	b := &bed{client: testutil.Netns(t), inside: testutil.Netns(t), flows: flow.NewTable(0), ports: make(map[string]int)}
	prefix := netip.MustParsePrefix
	route := func(to, via string) netns.Route {
		return netns.Route{Prefix: prefix(to), Via: netip.MustParseAddr(via)}
	}
	err := netns.Veth(
		netns.End{Namespace: b.client, Name: "up0", Addrs: []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd09::1/64")},
			Routes: []netns.Route{route("0.0.0.0/0", "10.9.0.2"), route("::/0", "fd09::2")}},
		netns.End{Namespace: b.inside, Name: "down0", Addrs: []netip.Prefix{prefix("10.9.0.2/24"), prefix("fd09::2/64")}})
	if err != nil {
		t.Fatal(err)
	}
	testutil.AnswerAll(t, b.inside, prefix("203.0.113.0/24"))
	testutil.AnswerAll(t, b.inside, prefix("2001:db8:7::/64"))
	b.relay, err = datagram.Open(datagram.Options{Namespace: b.inside, Dialer: e, Flows: b.flows, Workers: 1, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := b.relay.Sockets()
	for address, fd := range map[string]int{far4: v4, far6: v6} {
		// In an enclave a program finds the receiving socket. Here it has the port
		// of those that send replies: who is bound to the device comes first.
		if err := unix.BindToDevice(fd, "down0"); err != nil {
			t.Fatal(err)
		}
		bound, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		switch at := bound.(type) {
		case *unix.SockaddrInet4:
			b.ports[address] = at.Port
		case *unix.SockaddrInet6:
			b.ports[address] = at.Port
		}
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := b.relay.Serve(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := b.relay.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return b
}

// socket opens an unconnected socket of the client's.
func (b *bed) socket(t testing.TB, network string) *net.UDPConn {
	t.Helper()
	conn, err := b.client.ListenPacket(t.Context(), network, ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UDPConn)
}

func (b *bed) to(address string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), uint16(b.ports[address]))
}

// ask sends a datagram and returns what comes back, which must come from where it
// went to.
func ask(t *testing.T, conn *net.UDPConn, to netip.AddrPort, payload []byte) []byte {
	t.Helper()
	if _, err := conn.WriteToUDPAddrPort(payload, to); err != nil {
		t.Fatal(err)
	}
	return hear(t, conn, to)
}

func hear(t *testing.T, conn *net.UDPConn, from netip.AddrPort) []byte {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, source, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	if source = netip.AddrPortFrom(source.Addr().Unmap(), source.Port()); source != from {
		t.Errorf("the answer comes from %v, want %v", source, from)
	}
	return buf[:n]
}

// await waits until there is what noun names.
func await(t *testing.T, noun string, there func() bool) {
	t.Helper()
	limit := time.After(patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !there() {
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf("no %s in time", noun)
		}
	}
}

// ended returns the flows that have ended, oldest first.
func (b *bed) ended() []flow.Flow {
	return slices.DeleteFunc(b.flows.Snapshot(), func(f flow.Flow) bool { return f.State == flow.StateActive })
}

func TestAnswersComeFromTheOriginalDestination(t *testing.T) {
	e := &edge{}
	b := newBed(t, e, datagram.Limits{})
	sizes := []int{0, 1, 1472, 1473, 4000, 9000, 65_000}
	var bytesSent uint64
	for _, far := range []string{far4, far6} {
		conn := b.socket(t, "udp")
		for _, size := range sizes {
			payload := bytes.Repeat([]byte{byte(size), 'x'}, size)[:size]
			if got := ask(t, conn, b.to(far), payload); !bytes.Equal(got, payload) {
				t.Errorf("%s: of %d bytes %d come back, or others", far, size, len(got))
			}
			bytesSent += uint64(size)
		}
	}
	if n := e.dialed.Load(); n != 2 {
		t.Errorf("%d flows were dialed, want one for each destination", n)
	}
	await(t, "count of the last answer", func() bool { return b.flows.Totals().DatagramsReceived == uint64(2*len(sizes)) })
	got := b.flows.TotalsOf(flow.UDP)
	if got.BytesSent != bytesSent || got.BytesReceived != bytesSent || got.DatagramsSent != uint64(2*len(sizes)) || got.Active != 2 {
		t.Errorf("totals are %+v, want %d bytes each way", got, bytesSent)
	}
	f := b.flows.Snapshot()[0]
	if f.Protocol != flow.UDP || f.OrigDst != b.to(far4) || f.Source.Addr() != netip.MustParseAddr("10.9.0.1") || f.Edge != "edge.example:443" {
		t.Errorf("the first flow is %+v", f)
	}
	if s := b.relay.Stats(); s.Flows != 2 || s.Sockets != 2 || s.Dropped != 0 {
		t.Errorf("stats are %+v", s)
	}
}

func TestAnswersMayBeCutOnTheirWay(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{})
	var raw int
	err := b.client.Do(func() (err error) {
		raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	ask(t, b.socket(t, "udp4"), b.to(far4), []byte("x"))
	packet := make([]byte, 100)
	n, err := unix.Read(raw, packet) // what the asker has got is here, too
	if err != nil {
		t.Fatal(err)
	}
	if n != 29 || packet[28] != 'x' || packet[6]&0x40 != 0 {
		t.Errorf("the answer is % x, want one that is not marked as whole", packet[:n])
	}
}

func TestOneSocketHasAFlowForEachDestination(t *testing.T) {
	e := &edge{}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	const destinations = 200
	for i := range destinations {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), uint16(b.ports[far4]))
		want := fmt.Sprint("to ", to)
		if got := ask(t, conn, to, []byte(want)); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if s := b.relay.Stats(); s.Flows != destinations || s.Sockets != 1 || e.dialed.Load() != destinations {
		t.Errorf("stats are %+v with %d dials, want %d flows that answer from one port", s, e.dialed.Load(), destinations)
	}
}

func TestTrainsStayWhole(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{})
	for _, far := range []string{far4, far6} {
		conn := b.socket(t, "udp")
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		const size, count = 1200, 40
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
		if err := errors.Join(controlErr, err); err != nil {
			t.Fatal(err)
		}
		var train []byte
		for i := range count {
			train = append(train, bytes.Repeat([]byte{byte(i)}, size)...)
		}
		train = append(train, "the last is short"...)
		if _, err := conn.WriteToUDPAddrPort(train, b.to(far)); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for range count + 1 {
			p := hear(t, conn, b.to(far))
			if len(p) != size && string(p) != "the last is short" {
				t.Fatalf("%s: a datagram of %d bytes came back, want %d", far, len(p), size)
			}
			got = append(got, p...)
		}
		if !bytes.Equal(got, train) {
			t.Errorf("%s: the train came back changed, or in another order", far)
		}
	}
}

func TestDatagramsWaitForTheEdge(t *testing.T) {
	e := &edge{answers: make(chan struct{})}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	for i := range 10 {
		if _, err := conn.WriteToUDPAddrPort([]byte{byte(i)}, b.to(far4)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "ten datagrams", func() bool { return b.flows.Totals().DatagramsSent == 10 })
	close(e.answers)
	for i := range 10 {
		if got := hear(t, conn, b.to(far4)); !bytes.Equal(got, []byte{byte(i)}) {
			t.Errorf("got %v, want %d", got, i)
		}
	}
	if n := e.dialed.Load(); n != 1 {
		t.Errorf("dialed %d times, want once", n)
	}
}

func TestWhatWaitsIsBounded(t *testing.T) {
	e := &edge{answers: make(chan struct{})}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) })
	if err := errors.Join(controlErr, err); err != nil {
		t.Fatal(err)
	}
	const count, size = 20, 30_000 // 256 KiB hold 8
	for i := range count {
		if _, err := conn.WriteToUDPAddrPort(bytes.Repeat([]byte{byte(i)}, size), b.to(far4)); err != nil {
			t.Fatal(err)
		}
		await(t, "datagram", func() bool { return b.flows.Totals().DatagramsSent == uint64(i+1) })
	}
	close(e.answers)
	for i := count - 8; i < count; i++ {
		if got := hear(t, conn, b.to(far4)); len(got) != size || got[0] != byte(i) {
			t.Errorf("got %d bytes of number %d, want number %d: the oldest go first", len(got), got[0], i)
		}
	}
	if s := b.relay.Stats(); s.Dropped != count-8 {
		t.Errorf("dropped %d, want %d", s.Dropped, count-8)
	}
}

func TestWhatTheTunnelDropsIsCounted(t *testing.T) {
	e := &edge{answers: make(chan struct{}), full: true}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	send := func() {
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), b.to(far4)); err != nil {
			t.Fatal(err)
		}
	}
	send() // and waits for the edge
	await(t, "datagram", func() bool { return b.flows.Totals().DatagramsSent == 1 })
	close(e.answers)
	await(t, "count of what waited", func() bool { return b.relay.Stats().Dropped == 1 })
	for range 9 {
		send()
	}
	await(t, "count of the rest", func() bool { return b.relay.Stats().Dropped == 10 })
}

func TestRefusedFlowIsNotAskedForAgainAtOnce(t *testing.T) {
	e := &edge{refuse: errors.New("edge refused CONNECT: status 403")}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	send := func() {
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), b.to(far4)); err != nil {
			t.Fatal(err)
		}
	}
	send()
	await(t, "refusal", func() bool { return len(b.ended()) == 1 })
	f := b.ended()[0]
	if f.State != flow.StateRefused || f.Status != 403 || !strings.Contains(f.Cause, "403") {
		t.Errorf("the flow is %+v, want refused with 403", f)
	}
	await(t, "datagram that is dropped", func() bool { send(); return b.relay.Stats().Dropped > 0 })
	await(t, "count of each refusal", func() bool { return b.relay.Stats().Failed == uint64(e.dialed.Load()) })
	before := e.dialed.Load()
	await(t, "flow that is forgotten", func() bool { return b.relay.Stats().Flows == 0 })
	send()
	await(t, "another dial", func() bool { return e.dialed.Load() > before })
}

func TestFlowThatItsEdgeEndsBeginsAgain(t *testing.T) {
	e := &edge{end: io.EOF}
	b := newBed(t, e, datagram.Limits{})
	conn := b.socket(t, "udp4")
	for i := 1; i <= 2; i++ {
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), b.to(far4)); err != nil {
			t.Fatal(err)
		}
		await(t, "end of the flow", func() bool { return len(b.ended()) == i && b.relay.Stats().Flows == 0 })
	}
	for _, f := range b.ended() {
		if f.State != flow.StateClosed || f.Cause != "" {
			t.Errorf("the flow is %+v, want closed", f)
		}
	}
}

func TestIdleFlowsEnd(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{Idle: 2 * time.Second, StreamIdle: time.Hour})
	once, stream := b.socket(t, "udp4"), b.socket(t, "udp4")
	ask(t, stream, b.to(far4), []byte("one"))
	ask(t, stream, b.to(far4), []byte("two"))
	ask(t, once, b.to(far4), []byte("one"))
	await(t, "end of the flow that was answered once", func() bool { return b.relay.Stats().Expired == 1 })
	if s := b.relay.Stats(); s.Flows != 1 {
		t.Errorf("stats are %+v, want the stream alone", s)
	}
	if f := b.ended()[0]; f.State != flow.StateClosed {
		t.Errorf("the flow is %+v, want closed", f)
	}
	ask(t, stream, b.to(far4), []byte("three"))
}

func TestPolicyEndsWhatItDoesNotKeep(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{})
	conn := b.socket(t, "udp")
	ask(t, conn, b.to(far4), []byte("x"))
	ask(t, conn, b.to(far6), []byte("x"))
	b.relay.Judge(func(key datagram.Key) bool { return key.OrigDst == b.to(far6) })
	if s := b.relay.Stats(); s.Flows != 1 {
		t.Errorf("stats are %+v, want one flow", s)
	}
	if f := b.ended(); len(f) != 1 || f[0].OrigDst != b.to(far4) || f[0].State != flow.StateReset || f[0].Cause != "policy changed" {
		t.Errorf("ended are %+v", f)
	}
	ask(t, conn, b.to(far6), []byte("goes on"))
	if live := b.flows.Totals().Active; live != 1 {
		t.Errorf("%d flows are live, want the one that was kept", live)
	}
}

func TestFloodDoesNotCostLiveFlows(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{Flows: 3})
	live := b.socket(t, "udp4")
	ask(t, live, b.to(far4), []byte("first"))
	flood := b.socket(t, "udp4")
	for i := range 50 {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), uint16(b.ports[far4]))
		if _, err := flood.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "refusals", func() bool { return b.relay.Stats().Refused >= 48 })
	if s := b.relay.Stats(); s.Flows != 3 || s.Evicted != 0 {
		t.Errorf("stats are %+v, want three flows and none evicted", s)
	}
	ask(t, live, b.to(far4), []byte("second"))
}

func TestCloseEndsEveryFlow(t *testing.T) {
	b := newBed(t, &edge{}, datagram.Limits{})
	conn := b.socket(t, "udp4")
	ask(t, conn, b.to(far4), []byte("x"))
	if err := b.relay.Close(); err != nil {
		t.Fatal(err)
	}
	if f := b.ended(); len(f) != 1 || f[0].State != flow.StateReset || f[0].Cause != "agent stopped" {
		t.Errorf("ended are %+v", f)
	}
	if s := b.relay.Stats(); s.Flows != 0 || s.Sockets != 0 {
		t.Errorf("stats are %+v after Close", s)
	}
}
