package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

var errNoRecord = errors.New("no record")

// arrivals has a record of every connection, unless it is told not to.
type arrivals struct{ refuse atomic.Bool }

func (a *arrivals) Record(source, origDst netip.AddrPort) (flow.Record, error) {
	if a.refuse.Load() {
		return flow.Record{}, errNoRecord
	}
	return flow.Record{Source: source, OrigDst: origDst}, nil
}

// enclave is a namespace in which the addresses of two networks are local.
func enclave(t *testing.T) *netns.Namespace {
	t.Helper()
	ns := testutil.Netns(t)
	for _, prefix := range []string{"192.0.2.0/24", "2001:db8::/64"} {
		testutil.AnswerAll(t, ns, netip.MustParsePrefix(prefix))
	}
	return ns
}

func transparent(t *testing.T, ns *netns.Namespace, arrivals Arrivals) *Listener {
	t.Helper()
	l, err := ListenTransparent(t.Context(), TransparentOptions{Namespace: ns, Arrivals: arrivals})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connect connects to the listener's port of an address of the networks.
func connect(t *testing.T, ns *netns.Namespace, l *Listener, to string) *net.TCPConn {
	t.Helper()
	port := l.v4.Port()
	addr := netip.MustParseAddr(to)
	if addr.Is6() {
		port = l.v6.Port()
	}
	conn, err := ns.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// awaitConnected returns once the other side knows that it is connected: a reset that
// comes before would fail its connect().
func awaitConnected(conn net.Conn) { conn.Read(make([]byte, 1)) }

func TestTransparentConnectionsTellBothTheirEnds(t *testing.T) {
	ns := enclave(t)
	l := transparent(t, ns, &arrivals{})
	records := make(chan flow.Record, 1)
	serve(t, l, func(conn *net.TCPConn, rec flow.Record) {
		defer conn.Close()
		awaitConnected(conn)
		records <- rec
	})
	for _, to := range []string{"192.0.2.7", "2001:db8::7"} {
		conn := connect(t, ns, l, to)
		rec := <-records
		source, dest := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if rec.Source != source || rec.OrigDst != dest || rec.OrigDst.Addr().Is4In6() {
			t.Errorf("record of a connection from %s to %s: from %s to %s", source, dest, rec.Source, rec.OrigDst)
		}
	}
	if c := l.Counts(); c != (Counts{Accepted: 2}) {
		t.Errorf("counts are %+v", c)
	}
}

// What the kernel does with the sockets of a process that is killed is what close
// does with one that nobody has said anything about.
func TestTransparentConnectionsAreResetUnlessTheyAreClosedInOrder(t *testing.T) {
	ns := enclave(t)
	l := transparent(t, ns, &arrivals{})
	var inOrder atomic.Bool
	serve(t, l, func(conn *net.TCPConn, _ flow.Record) {
		awaitConnected(conn)
		if inOrder.Load() {
			conn.SetLinger(-1)
		}
		conn.Close()
	})
	for _, to := range []string{"192.0.2.7", "2001:db8::7"} {
		inOrder.Store(false)
		if _, err := connect(t, ns, l, to).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: closed as at a crash: %v, want ECONNRESET", to, err)
		}
		inOrder.Store(true)
		if _, err := connect(t, ns, l, to).Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: closed in order: %v, want EOF", to, err)
		}
	}
}

func TestTransparentConnectionsInheritWhatTheyNeed(t *testing.T) {
	ns := enclave(t)
	l := transparent(t, ns, &arrivals{})
	type options struct{ protocol, keepAlive, idle, noDelay int }
	seen := make(chan options, 1)
	serve(t, l, func(conn *net.TCPConn, _ flow.Record) {
		defer conn.Close()
		awaitConnected(conn)
		seen <- options{
			option(t, conn, unix.SOL_SOCKET, unix.SO_PROTOCOL), option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE),
			option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(t, conn, unix.IPPROTO_TCP, unix.TCP_NODELAY),
		}
	})
	for _, to := range []string{"192.0.2.7", "2001:db8::7"} {
		connect(t, ns, l, to)
		if got, want := <-seen, (options{unix.IPPROTO_TCP, 1, 300, 1}); got != want {
			t.Errorf("%s: %+v, want %+v", to, got, want)
		}
	}
}

func TestTransparentConnectionWithoutARecordIsReset(t *testing.T) {
	ns := enclave(t)
	a := &arrivals{}
	a.refuse.Store(true)
	l := transparent(t, ns, a)
	serve(t, l, func(conn *net.TCPConn, rec flow.Record) {
		conn.Close()
		t.Errorf("carried %+v", rec)
	})
	conn, err := ns.DialContext(t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), l.v4.Port()).String())
	if err == nil { // before the reset
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connect and read: %v, want ECONNRESET", err)
	}
	if c := l.Counts(); c != (Counts{Accepted: 1, NoRecord: 1}) {
		t.Errorf("counts are %+v", c)
	}
}

func TestTransparentListenersLendTheirDescriptors(t *testing.T) {
	l := transparent(t, enclave(t), &arrivals{})
	want := errors.New("seen")
	err := l.Control(func(v4, v6 int) error {
		for fd, address := range map[int]netip.AddrPort{v4: l.v4, v6: l.v6} {
			got, err := unix.Getsockname(fd)
			var port int
			switch got := got.(type) {
			case *unix.SockaddrInet4:
				port = got.Port
			case *unix.SockaddrInet6:
				port = got.Port
			}
			if err != nil || port != int(address.Port()) {
				t.Errorf("descriptor %d is bound to %v, %v; want port %d", fd, got, err, address.Port())
			}
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("Control: %v, want the error of its function", err)
	}
}

type noNamespace struct{}

func (noNamespace) Do(func() error) error { return syscall.ENOSYS }

func TestNamespaceThatCannotBeEnteredIsAnError(t *testing.T) {
	l, err := ListenTransparent(context.Background(), TransparentOptions{Namespace: noNamespace{}, Arrivals: &arrivals{}})
	if l != nil || !errors.Is(err, syscall.ENOSYS) {
		t.Errorf("ListenTransparent = %v, %v", l, err)
	}
}
