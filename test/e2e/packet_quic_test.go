package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// fetchScenario gets a URL by HTTP/3, with nothing but the roots of a file, and
// prints the status and how much of the answer is as it should be.
func fetchScenario(args []string, stdout io.Writer) error {
	pem, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("read roots: none")
	}
	transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.Close()
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[1], nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	same, err := compare(answer.Body, noise())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s %d with %d bytes\n", answer.Proto, answer.StatusCode, same)
	return err
}

// serveHTTP3 answers at an address with so much noise as the path says.
func (s *packetSite) serveHTTP3(t *testing.T, addr string) {
	t.Helper()
	host := netip.MustParseAddr(addr)
	if err := s.net.AddAddr("lo", netip.PrefixFrom(host, host.BitLen())); err != nil {
		t.Fatal(err)
	}
	conn, err := s.net.ListenPacket(t.Context(), "udp", at(addr, 443))
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{s.authority.Issue(t, addr)}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			size, err := strconv.ParseInt(r.URL.Path[1:], 10, 64)
			if err != nil {
				http.NotFound(w, r)
				return
			}
			io.CopyN(w, noise(), size)
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(conn) })
	t.Cleanup(func() {
		server.Close()
		conn.Close()
		serving.Wait()
	})
}

// checkCurl has a curl that speaks HTTP/3 get a URL. The images of virtual
// machines have none that does: it would bring most of another Debian along.
func (s *packetSite) checkCurl(t *testing.T, from place, url string, size int) {
	t.Helper()
	if testing.Short() {
		return
	}
	cmd := testutil.Unpacked(t, "curl", "--http3-only", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*",
		"--cacert", s.files.Roots, "--output", "/dev/null", "--write-out", "HTTP/%{http_version} %{http_code} with %{size_download} bytes", url)
	got, err := testutil.Output(t, from.namespace, s.cgroup, cmd)
	if want := fmt.Sprintf("HTTP/3 200 with %d bytes", size); got != want || err != nil {
		t.Errorf("curl, %s of the %s: got %q, %v, want %q", url, from.name, got, err, want)
	}
}

func (s *packetSite) checkQUIC(t *testing.T) {
	const host4, host6 = "192.168.11.44", "2001:db8:11::44"
	s.serveHTTP3(t, host4)
	s.serveHTTP3(t, host6)
	size := 8 << 20
	if testing.Short() {
		size = 512 << 10
	}
	for _, from := range s.places() {
		for _, host := range []string{host4, host6} {
			begun := time.Now()
			url := fmt.Sprintf("https://%s/%d", net.JoinHostPort(host, "443"), size)
			got := testutil.Child(t, from.namespace, s.cgroup, "fetch", s.files.Roots, url)
			if want := fmt.Sprintf("HTTP/3.0 200 with %d bytes\n", size); got != want {
				t.Errorf("%s of the %s: got %q, want %q", url, from.name, got, want)
			}
			t.Logf("%s of the %s: %d bytes in %v", url, from.name, size, time.Since(begun))
			s.checkCurl(t, from, url, size)
		}
	}
}
