// Package interop holds the edge and the tunnel against implementations of
// CONNECT-UDP that share no code with them: curl, which asks for it over HTTP/2,
// and aioquic, over HTTP/3. All of it stays on the loopback interface.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/edge"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

const patience = time.Minute

// startEdge serves an edge that allows a port, and returns its own.
func startEdge(t *testing.T, authority *testutil.Authority, allow string) string {
	t.Helper()
	e, err := edge.New(edge.Options{
		Listen: "127.0.0.1:0", Certificate: authority.Issue(t, "127.0.0.1"), Allow: []string{allow},
		HTTP3: true, AllowLoopback: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l, err := e.Listen(ctx)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := e.Serve(ctx, l); err != nil {
			t.Errorf("edge: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		serving.Wait()
	})
	return port(l.Addr())
}

func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

func listenUDP(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// serveHTTP3 answers with a body and returns its port.
func serveHTTP3(t *testing.T, authority *testutil.Authority, body []byte) string {
	t.Helper()
	conn := listenUDP(t)
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1")}}),
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }),
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(conn) })
	t.Cleanup(func() {
		server.Close()
		conn.Close()
		serving.Wait()
	})
	return port(conn.LocalAddr())
}

// echoUDP sends back what comes, and returns its port.
func echoUDP(t *testing.T) string {
	t.Helper()
	conn := listenUDP(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(b[:n], from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return port(conn.LocalAddr())
}

func TestCurlFetchesThroughTheEdge(t *testing.T) {
	authority := testutil.NewAuthority(t)
	roots := authority.WriteFiles(t, t.TempDir(), "127.0.0.1").Roots
	body := make([]byte, 4<<20)
	rand.Read(body)
	target := serveHTTP3(t, authority, body)
	fetch := func(allow string) (string, error) {
		curl := testutil.Unpacked(t, "curl", "--http3-only", "--silent", "--show-error", "--max-time", "60", "--noproxy", "",
			"--cacert", roots, "--proxy-cacert", roots, "--proxytunnel", "--proxy-http2",
			"--proxy", "https://127.0.0.1:"+startEdge(t, authority, allow), "https://127.0.0.1:"+target+"/")
		var complaint bytes.Buffer
		curl.Stderr = &complaint
		got, err := testutil.Output(t, nil, "", curl)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, &complaint)
		}
		return got, err
	}
	if got, err := fetch("127.0.0.1:" + target); got != string(body) || err != nil {
		t.Errorf("got %d bytes, %v, want the %d of the target", len(got), err, len(body))
	}
	if got, err := fetch("127.0.0.1:9"); got != "" || err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("refused target: got %d bytes, %v, want the edge's 403", len(got), err)
	}
}

func TestDatagramsOfAioquicEchoThroughTheEdge(t *testing.T) {
	authority := testutil.NewAuthority(t)
	roots := authority.WriteFiles(t, t.TempDir(), "127.0.0.1").Roots
	target := echoUDP(t)
	proxy := startEdge(t, authority, "127.0.0.1:"+target)
	for _, test := range []struct{ target, want string }{
		{target, "status 200\n1 same\n0 same\n62 same\n63 same\n64 same\n1100 same\n1200 same\n"},
		{"9", "status 403\n"},
	} {
		got, err := testutil.Output(t, nil, "", testutil.Unpacked(t, "python3", "testdata/client.py", roots, proxy, "127.0.0.1", test.target))
		if got != test.want || err != nil {
			t.Errorf("target port %s: got %q, %v, want %q", test.target, got, err, test.want)
		}
	}
}

func TestTunnelCarriesDatagramsThroughAioquic(t *testing.T) {
	authority := testutil.NewAuthority(t)
	files := authority.WriteFiles(t, t.TempDir(), "127.0.0.1")
	proxy := testutil.Unpacked(t, "python3", "testdata/proxy.py", files.Certificate, files.Key)
	stdout, err := proxy.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, nil, "", proxy)
	said := bufio.NewReader(stdout)
	address, err := said.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tun := tunnel.New(tunnel.Options{
		Address: net.JoinHostPort("127.0.0.1", strings.TrimSpace(address)), Secure: true,
		TLS: &tls.Config{RootCAs: authority.Roots()}, Transport: tunnel.TransportHTTP3, DialTimeout: patience,
	})
	defer tun.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	var refused *tunnel.RefusedError
	if _, err := tun.ConnectUDP(ctx, "192.0.2.1:9"); !errors.As(err, &refused) {
		t.Errorf("refused target: got %v", err)
	}
	flow, err := tun.ConnectUDP(ctx, "[2001:db8::1]:53")
	if err != nil {
		t.Fatal(err)
	}
	checkEchoes(t, ctx, flow)
	for _, want := range []string{"192.0.2.1/9/", "2001%3Adb8%3A%3A1/53/"} {
		line, err := said.ReadString('\n')
		if want = "CONNECT connect-udp /.well-known/masque/udp/" + want + "\n"; line != want || err != nil {
			t.Errorf("proxy was asked %q, %v, want %q", line, err, want)
		}
	}
}

// checkEchoes sends datagrams of several sizes, one after the other, and closes
// the flow.
func checkEchoes(t *testing.T, ctx context.Context, flow tunnel.Datagrams) {
	t.Helper()
	got := make(chan []byte, 16)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		flow.Receive(func(batch [][]byte) {
			for _, b := range batch {
				got <- bytes.Clone(b)
			}
		})
	})
	defer receiving.Wait()
	defer flow.Close()
	for _, size := range []int{1, 0, 62, 63, 64, 1100, 1200} {
		sent := make([]byte, size)
		io.ReadFull(rand.Reader, sent)
		if err := flow.Send([][]byte{sent}); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-got:
			if !bytes.Equal(b, sent) {
				t.Errorf("%s bytes came back as %d", strconv.Itoa(size), len(b))
			}
		case <-ctx.Done():
			t.Fatalf("datagram of %d bytes does not come back", size)
		}
	}
}
