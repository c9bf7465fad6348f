package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type originFunc func(fd int) (flow.Record, error)

func (f originFunc) Lookup(fd int) (flow.Record, error) { return f(fd) }

// portOrigin tells connections apart: the record's original destination has
// the port that the socket's peer connected from.
var portOrigin = originFunc(func(fd int) (rec flow.Record, err error) {
	peer, err := unix.Getpeername(fd)
	switch peer := peer.(type) {
	case *unix.SockaddrInet4:
		rec.OrigDst = netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), uint16(peer.Port))
	case *unix.SockaddrInet6:
		rec.OrigDst = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr), uint16(peer.Port))
	}
	return rec, err
})

func mustListen(tb testing.TB, o Options) *Listener {
	tb.Helper()
	l, err := Listen(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// serve serves until the test ends or stop is called, which waits.
func serve(tb testing.TB, l *Listener, carry func(*net.TCPConn, flow.Record)) (stop func()) {
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Serve(ctx, carry)
	}()
	stop = func() {
		cancel()
		<-done
	}
	tb.Cleanup(stop)
	return stop
}

func dial(tb testing.TB, address netip.AddrPort) *net.TCPConn {
	tb.Helper()
	conn, err := net.Dial("tcp", address.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

func families(tb testing.TB, l *Listener) map[string]netip.AddrPort {
	tb.Helper()
	v4, v6 := l.AddrPorts()
	if !v4.IsValid() {
		tb.Fatal("no IPv4 listener")
	}
	found := map[string]netip.AddrPort{"IPv4": v4}
	if v6.IsValid() {
		found["IPv6"] = v6
	}
	return found
}

func TestConnectionComesWithItsRecord(t *testing.T) {
	l := mustListen(t, Options{Origin: portOrigin})
	serve(t, l, func(conn *net.TCPConn, rec flow.Record) {
		defer conn.Close()
		io.WriteString(conn, rec.OrigDst.String())
	})
	var accepted uint64
	for family, address := range families(t, l) {
		t.Run(family, func(t *testing.T) {
			if !address.Addr().IsLoopback() || address.Port() == 0 {
				t.Errorf("listener has the address %v, want a port on loopback", address)
			}
			for range 20 {
				app := dial(t, address)
				got, err := io.ReadAll(app)
				if want := app.LocalAddr().String(); string(got) != want || err != nil {
					t.Fatalf("connection from %s came with the record of %q, %v", want, got, err)
				}
				accepted++
			}
		})
	}
	if got := l.Counts(); got != (Counts{Accepted: accepted}) {
		t.Errorf("counts are %+v, want %d accepted", got, accepted)
	}
}

func TestConnectionWithoutARecordIsReset(t *testing.T) {
	var log bytes.Buffer
	connected := make(chan struct{}) // or the reset may overtake connect
	l := mustListen(t, Options{
		Origin: originFunc(func(int) (flow.Record, error) {
			<-connected
			return flow.Record{}, errors.New("no record")
		}),
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	carried := false
	stop := serve(t, l, func(conn *net.TCPConn, _ flow.Record) {
		conn.Close()
		carried = true
	})
	app := dial(t, families(t, l)["IPv4"])
	close(connected)
	if n, err := app.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("application read %d bytes, %v; want %v", n, err, syscall.ECONNRESET)
	}
	stop()
	if carried {
		t.Error("a connection without a record was carried")
	}
	if got := l.Counts(); got != (Counts{Accepted: 1, NoRecord: 1}) {
		t.Errorf("counts are %+v", got)
	}
	if !strings.Contains(log.String(), "level=DEBUG") || !strings.Contains(log.String(), `error="no record"`) {
		t.Errorf("log does not say why: %s", &log)
	}
}

func TestServeWaitsForTheConnectionsThatAreCarried(t *testing.T) {
	l := mustListen(t, Options{Origin: portOrigin})
	started, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Serve(ctx, func(conn *net.TCPConn, _ flow.Record) {
			defer conn.Close()
			close(started)
			<-release
		})
	}()
	v4, _ := l.AddrPorts()
	app := dial(t, v4)
	<-started
	cancel()
	// Serve stops listening first: then only the connection keeps it.
	if _, err := l.sockets[0].AcceptTCP(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("accept after cancel: %v, want %v", err, net.ErrClosed)
	}
	select {
	case <-done:
		t.Error("Serve returned while a connection was carried")
	default:
	}
	close(release)
	<-done
	if _, err := app.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("application read: %v, want the end in order", err)
	}
}

func TestSocketsArePlainTCPWithoutKeepAlive(t *testing.T) {
	l := mustListen(t, Options{Origin: portOrigin})
	options := make(chan [3]int, 1)
	serve(t, l, func(conn *net.TCPConn, _ flow.Record) {
		defer conn.Close()
		options <- [3]int{
			option(t, conn, unix.SOL_SOCKET, unix.SO_PROTOCOL),
			option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE),
			option(t, conn, unix.IPPROTO_TCP, unix.TCP_NODELAY),
		}
	})
	for family, address := range families(t, l) {
		t.Run(family, func(t *testing.T) {
			dial(t, address)
			if got, want := <-options, [3]int{unix.IPPROTO_TCP, 0, 1}; got != want {
				t.Errorf("protocol, keep-alive and no-delay are %v, want %v", got, want)
			}
		})
	}
	for _, s := range l.sockets {
		if got := option(t, s.(*net.TCPListener), unix.SOL_SOCKET, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
			t.Errorf("listener %v speaks protocol %d, want %d", s.Addr(), got, unix.IPPROTO_TCP)
		}
		if got, want := backlog(t, s.(*net.TCPListener)), somaxconn(t); got != want {
			t.Errorf("listener %v has a backlog of %d, want %d", s.Addr(), got, want)
		}
	}
}

func control(t *testing.T, s syscall.Conn, f func(fd int)) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Error(err)
	}
}

func option(t *testing.T, s syscall.Conn, level, name int) (value int) {
	t.Helper()
	control(t, s, func(fd int) {
		var err error
		if value, err = unix.GetsockoptInt(fd, level, name); err != nil {
			t.Error(err)
		}
	})
	return value
}

// backlog reads what TCP_INFO of a listening socket has in the place of
// selectively acknowledged segments.
func backlog(t *testing.T, s syscall.Conn) (length int) {
	t.Helper()
	control(t, s, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		length = int(info.Sacked)
	})
	return length
}

func somaxconn(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// BenchmarkAccept opens connections that are closed at once.
func BenchmarkAccept(b *testing.B) {
	l := mustListen(b, Options{Origin: portOrigin})
	serve(b, l, func(conn *net.TCPConn, _ flow.Record) { conn.Close() })
	v4, _ := l.AddrPorts()
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		one := make([]byte, 1)
		for pb.Next() {
			conn, err := net.Dial("tcp4", v4.String())
			if err != nil {
				b.Error(err)
				return
			}
			conn.Read(one)
			conn.Close()
		}
	})
}
