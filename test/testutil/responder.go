package testutil

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Respond listens on address (an IP literal and a port, which may be 0) in the
// namespace and runs handle for each connection, on a goroutine of its own. It
// returns the address in use. At the end of the test the listener and the
// connections are closed, and the goroutines waited for.
func Respond(t testing.TB, ns *netns.Namespace, address string, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	listener, err := listen(t.Context(), ns, address)
	if err != nil {
		t.Fatal(err)
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		open    = make(map[net.Conn]bool)
		closed  bool
	)
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				mu.Unlock()
				conn.Close()
				return
			}
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				handle(conn.(*net.TCPConn))
				conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		closed = true
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// Echo responds with what it reads, and to a half-close with a half-close.
func Echo(t testing.TB, ns *netns.Namespace, address string) netip.AddrPort {
	t.Helper()
	return Respond(t, ns, address, func(conn *net.TCPConn) {
		io.Copy(conn, conn)
		conn.CloseWrite()
	})
}

// Banner speaks first, as SSH does, and then reads to the end.
func Banner(t testing.TB, ns *netns.Namespace, address, banner string) netip.AddrPort {
	t.Helper()
	return Respond(t, ns, address, func(conn *net.TCPConn) {
		io.WriteString(conn, banner)
		io.Copy(io.Discard, conn)
	})
}

// HTTP serves handler on address (an IP literal and a port, which may be 0) in
// the namespace until the end of the test. It returns the address in use.
func HTTP(t testing.TB, ns *netns.Namespace, address string, handler http.Handler) netip.AddrPort {
	t.Helper()
	return serve(t, ns, address, &http.Server{Handler: handler})
}

// HTTPS is HTTP over TLS with a certificate of the authority for names, by
// ALPN h2 or http/1.1. With a handler that answers CONNECT it is an edge: one
// that calls http.Error refuses.
func HTTPS(t testing.TB, ns *netns.Namespace, address string, authority *Authority, names []string, handler http.Handler) netip.AddrPort {
	t.Helper()
	return serve(t, ns, address, &http.Server{
		Handler: handler,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{authority.Issue(t, names...)},
			MinVersion:   tls.VersionTLS12,
		},
	})
}

func serve(t testing.TB, ns *netns.Namespace, address string, server *http.Server) netip.AddrPort {
	t.Helper()
	listener, err := listen(t.Context(), ns, address)
	if err != nil {
		t.Fatal(err)
	}
	server.ErrorLog = log.New(t.Output(), "", 0)
	var running sync.WaitGroup
	running.Go(func() {
		if server.TLSConfig != nil {
			server.ServeTLS(listener, "", "")
			return
		}
		server.Serve(listener)
	})
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}
