package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/enclave"
)

// welcome says who is asked, and then echoes until the other side ends. It does not
// look by itself whether that is there: the next test would see that.
func welcome(conn *net.TCPConn, who string) {
	conn.SetKeepAlive(false)
	if _, err := io.WriteString(conn, who); err == nil {
		io.Copy(conn, conn)
	}
}

// inside opens a socket in the enclave that may have any address.
func inside[T any](t testing.TB, e *enclave.Enclave, open func(*net.ListenConfig) (T, error)) T {
	t.Helper()
	config := &net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) (err error) {
		level, transparent, original := unix.SOL_IP, unix.IP_TRANSPARENT, unix.IP_RECVORIGDSTADDR
		if strings.HasSuffix(network, "6") {
			level, transparent, original = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, unix.IPV6_RECVORIGDSTADDR
		}
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), level, transparent, 1),
				unix.SetsockoptInt(int(fd), level, original, 1))
		}), err)
	}}
	config.SetMultipathTCP(false)
	var socket T
	err := e.Namespace().Do(func() (err error) {
		socket, err = open(config)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// listenInside is where acquired connections end. It returns the socket's
// descriptor, which is open as long as the test runs.
func listenInside(t testing.TB, e *enclave.Enclave, network string) int {
	t.Helper()
	l := inside(t, e, func(config *net.ListenConfig) (net.Listener, error) {
		return config.Listen(context.Background(), network, ":0")
	})
	serveListener(t, l, func(conn *net.TCPConn) { welcome(conn, "relay for "+conn.LocalAddr().String()) })
	return descriptor(t, l.(*net.TCPListener))
}

// receiveInside is where acquired datagrams end. They are answered from the
// address that they were sent to.
func receiveInside(t testing.TB, e *enclave.Enclave, network string) int {
	t.Helper()
	conn := inside(t, e, func(config *net.ListenConfig) (net.PacketConn, error) {
		return config.ListenPacket(context.Background(), network, ":0")
	}).(*net.UDPConn)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		answerInside(t, e, conn, network)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-finished
	})
	return descriptor(t, conn)
}

func answerInside(t testing.TB, e *enclave.Enclave, conn *net.UDPConn, network string) {
	buf, control := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, m, _, from, err := conn.ReadMsgUDPAddrPort(buf, control)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(control[:m])
		if err != nil || len(messages) != 1 {
			t.Errorf("datagram in the enclave has %d control messages, %v", len(messages), err)
			continue
		}
		sockaddr, err := unix.ParseOrigDstAddr(&messages[0])
		if err != nil {
			t.Error(err)
			continue
		}
		to := addrPortOf(sockaddr)
		reply := inside(t, e, func(config *net.ListenConfig) (net.PacketConn, error) {
			return config.ListenPacket(context.Background(), network, to.String())
		}).(*net.UDPConn)
		reply.WriteToUDPAddrPort(fmt.Appendf(nil, "relay for %s %d", to, n), from)
		reply.Close()
	}
}

// descriptor is that of a socket, for as long as the test runs.
func descriptor(t testing.TB, socket interface {
	SyscallConn() (syscall.RawConn, error)
}) (fd int) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err == nil {
		err = raw.Control(func(open uintptr) { fd = int(open) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// serveListener handles connections until the end of the test.
func serveListener(t testing.TB, l net.Listener, handle func(*net.TCPConn)) {
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		conns   []net.Conn
	)
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() { handle(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}
