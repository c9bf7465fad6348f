package edge

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// testDatagrams is the client's end of a flow of datagrams.
type testDatagrams interface {
	send(p []byte) error
	receive() ([]byte, error)
	finish()         // the client ends the flow
	awaitEnd() error // waits for the end; nil for an orderly one
}

// readCapsule reads a DATAGRAM capsule with a context of one byte, 0, and a
// length of 1, 2 or 4 bytes: written from RFC 9297 and RFC 9298 again, apart
// from what is tested.
func readCapsule(r io.Reader) ([]byte, error) {
	b := make([]byte, 2, 5)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if b[0] != 0 {
		return nil, fmt.Errorf("capsule of type %#x", b[0])
	}
	more := 1<<(b[1]>>6) - 1
	if _, err := io.ReadFull(r, b[2:2+more]); err != nil {
		return nil, err
	}
	length := uint32(b[1] & 0x3f)
	for _, c := range b[2 : 2+more] {
		length = length<<8 | uint32(c)
	}
	value := make([]byte, length)
	if _, err := io.ReadFull(r, value); err != nil {
		return nil, err
	}
	if value[0] != 0 {
		return nil, fmt.Errorf("datagram of context %#x", value[0])
	}
	return value[1:], nil
}

// writeCapsule is the way back of readCapsule, with a length of 4 bytes.
func writeCapsule(payload []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, 0x80000000|uint32(len(payload)+1))
	return append(append(b, 0), payload...)
}

func (s *clientStream) send(p []byte) error      { _, err := s.Write(writeCapsule(p)); return err }
func (s *clientStream) receive() ([]byte, error) { return readCapsule(s) }
func (s *clientStream) finish()                  { s.closeWrite() }

func (s *clientStream) awaitEnd() error {
	_, err := io.Copy(io.Discard, s)
	return err
}

// http3Datagrams is a flow over HTTP/3; received gets what comes either way.
type http3Datagrams struct {
	*http3Flow
	received chan []byte
	failed   chan error // of the stream
}

func newHTTP3Datagrams(tb testing.TB, f *http3Flow) *http3Datagrams {
	d := &http3Datagrams{f, make(chan []byte, 1<<12), make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			p, err := f.ReceiveDatagram(ctx)
			if err != nil {
				return
			}
			d.received <- p[1:]
		}
	})
	wg.Go(func() {
		for {
			p, err := readCapsule(f)
			if err != nil {
				d.failed <- err
				return
			}
			d.received <- p
		}
	})
	tb.Cleanup(func() {
		cancel()
		f.reset()
		wg.Wait()
	})
	return d
}

func (d *http3Datagrams) send(p []byte) error {
	if err := d.SendDatagram(append([]byte{0}, p...)); err == nil {
		return nil
	}
	_, err := d.Write(writeCapsule(p))
	return err
}

func (d *http3Datagrams) receive() ([]byte, error) {
	select {
	case p := <-d.received:
		return p, nil
	case err := <-d.failed:
		return nil, err
	}
}

func (d *http3Datagrams) finish() { d.Close() }

func (d *http3Datagrams) awaitEnd() error {
	if err := <-d.failed; err != io.EOF {
		return err
	}
	return nil
}

// udpPath begins the default template, RFC 9298 section 2.
const udpPath = "/.well-known/masque/udp/"

func udpTarget(target string) string {
	host, port, _ := net.SplitHostPort(target)
	return udpPath + strings.ReplaceAll(host, ":", "%3A") + "/" + port + "/"
}

func connectUDPRequest(path string) *http.Request {
	u, _ := url.Parse("https://edge.test" + path)
	return &http.Request{Method: http.MethodConnect, Proto: "connect-udp", Host: "edge.test", URL: u,
		Header: http.Header{"Capsule-Protocol": {"?1"}}}
}

func (c *client) connectUDP(path string, fields ...string) *clientStream {
	return c.request(false, append([]string{":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https",
		":authority", "edge.test", ":path", path, "capsule-protocol", "?1"}, fields...)...)
}

// datagramProtocols open flows of datagrams, and fail the test unless the edge
// answers 200 and that capsules follow.
var datagramProtocols = map[string]func(testing.TB, net.Addr, *tls.Config, string) testDatagrams{
	"h2": func(tb testing.TB, addr net.Addr, config *tls.Config, target string) testDatagrams {
		s := dialClient(tb, addr, config).connectUDP(udpTarget(target))
		if status, err := s.status(); err != nil || status != "200" || s.fields["capsule-protocol"] != "?1" {
			tb.Fatalf("status %s, %v, %v", status, s.fields, err)
		}
		return s
	},
	"h3": func(tb testing.TB, addr net.Addr, config *tls.Config, target string) testDatagrams {
		f := request3(tb, addr, config, connectUDPRequest(udpTarget(target)))
		if f.response.StatusCode != http.StatusOK || f.response.Header.Get("Capsule-Protocol") != "?1" {
			tb.Fatalf("response %v", f.response)
		}
		return newHTTP3Datagrams(tb, f)
	},
}

func eachDatagramProtocol(t *testing.T, test func(*testing.T, func(target string) (testDatagrams, *Edge)), change ...func(*Options)) {
	for name, open := range datagramProtocols {
		t.Run(name, func(t *testing.T) {
			test(t, func(target string) (testDatagrams, *Edge) {
				e, addr, config := serve(t, append(change, speaking(name))...)
				return open(t, addr, config, target), e
			})
		})
	}
}
