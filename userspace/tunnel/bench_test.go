package tunnel

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

// burst is what one operation of the throughput benchmarks moves, in bytes.
const burst = 4 << 20

// frugalEdge is an edge that costs little beside TLS, so that what differs is
// the client. It has one goroutine for each connection and answers each byte
// that it receives alone with itself, each burst with one byte, and 'g' with a
// burst.
type frugalEdge struct {
	conn   net.Conn
	framer *http2.Framer // reads from conn, writes to out
	out    bytes.Buffer
	answer []byte // a header block

	stream, initial, window, connWindow, owed int
	received                                  int
	zeros                                     [maxDataRecords*tlsrecord.Len - frameHeaderLen]byte
}

// startFrugalEdge returns the options for a new edge.
func startFrugalEdge(tb testing.TB) Options {
	cert, roots := certificate()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates:                []tls.Certificate{cert},
		NextProtos:                  []string{"h2"},
		DynamicRecordSizingDisabled: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	var block bytes.Buffer
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e := &frugalEdge{conn: conn, answer: block.Bytes(), connWindow: initialWindow, initial: initialWindow}
			tasks.Go(e.serve)
		}
	})
	tb.Cleanup(func() { l.Close(); tasks.Wait() })
	return Options{
		Address: l.Addr().String(), ServerName: "edge.example", Secure: true,
		TLS: &tls.Config{RootCAs: roots, ServerName: "edge.example"}, Connections: 1,
	}
}

func (e *frugalEdge) serve() {
	defer e.conn.Close()
	io.ReadFull(e.conn, make([]byte, len(http2.ClientPreface)))
	e.framer = http2.NewFramer(&e.out, e.conn)
	e.framer.SetReuseFrames()
	e.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * burst})
	e.framer.WriteSettingsAck()
	e.framer.WriteWindowUpdate(0, maxWindow-initialWindow)
	for {
		if e.out.Len() > 0 {
			if _, err := e.out.WriteTo(e.conn); err != nil {
				return
			}
		}
		f, err := e.framer.ReadFrame()
		if err != nil {
			return
		}
		e.take(f)
	}
}

func (e *frugalEdge) take(f http2.Frame) {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.HeadersFrame:
		e.stream, e.window, e.owed, e.received = int(id), e.initial, 0, 0
		e.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: e.answer, EndHeaders: true})
	case *http2.SettingsFrame:
		if n, ok := f.Value(http2.SettingInitialWindowSize); ok {
			e.initial = int(n)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			e.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if id == 0 {
			e.connWindow += int(f.Increment)
		} else if int(id) == e.stream {
			e.window += int(f.Increment)
		}
		e.pay()
	case *http2.DataFrame:
		e.takeData(f)
	}
}

func (e *frugalEdge) takeData(f *http2.DataFrame) {
	switch data := f.Data(); {
	case f.StreamEnded():
		e.framer.WriteData(f.StreamID, true, nil)
	case len(data) == 1 && data[0] == 'g':
		e.owed += burst
		e.pay()
	case len(data) == 1:
		e.framer.WriteData(f.StreamID, false, data)
	default:
		if e.received += len(data); e.received == burst {
			e.received = 0
			e.framer.WriteData(f.StreamID, false, []byte("k"))
			e.framer.WriteWindowUpdate(f.StreamID, burst)
			e.framer.WriteWindowUpdate(0, burst)
		}
	}
}

// pay sends as much of what it owes as the windows allow.
func (e *frugalEdge) pay() {
	for {
		n := min(e.owed, e.window, e.connWindow, 16<<10-frameHeaderLen)
		if n <= 0 {
			return
		}
		e.owed -= n
		e.window -= n
		e.connWindow -= n
		e.framer.WriteData(uint32(e.stream), false, e.zeros[:n])
		e.out.WriteTo(e.conn)
	}
}

// connector is a client under measurement.
type connector struct {
	name    string
	connect func(b *testing.B) Stream
}

// connectors returns the tunnel, and net/http's client for the same edge.
func connectors(b *testing.B) []connector {
	o := startFrugalEdge(b)
	tun := newTunnel(b, o)
	transport := &http.Transport{TLSClientConfig: o.TLS, ForceAttemptHTTP2: true}
	b.Cleanup(transport.CloseIdleConnections)
	return []connector{{
		name: "tunnel",
		connect: func(b *testing.B) Stream {
			s, err := tun.Connect(b.Context(), "host.example:443")
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
	}, {
		name: "transport",
		connect: func(b *testing.B) Stream {
			r, w := io.Pipe()
			answer, err := transport.RoundTrip((&http.Request{
				Method: http.MethodConnect,
				URL:    &url.URL{Scheme: "https", Host: o.Address},
				Host:   "host.example:443",
				Header: http.Header{},
				Body:   r,
			}).WithContext(b.Context()))
			if err != nil {
				b.Fatal(err)
			}
			return &transportStream{answer.Body, w}
		},
	}}
}

// transportStream is a Stream as net/http's client offers it.
type transportStream struct {
	io.ReadCloser
	*io.PipeWriter
}

func (s *transportStream) CloseWrite() error { return s.PipeWriter.Close() }
func (s *transportStream) Reset() error      { return s.Close() }
func (s *transportStream) Close() error {
	s.PipeWriter.Close()
	return s.ReadCloser.Close()
}

// measure runs f for each connector, and reports the processor time of both
// ends too: a busy machine disturbs that less than elapsed time.
func measure(b *testing.B, f func(b *testing.B, c connector)) {
	for _, c := range connectors(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime(b)
			f(b, c)
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

func processorTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func BenchmarkConnect(b *testing.B) {
	measure(b, func(b *testing.B, c connector) {
		for b.Loop() {
			s := c.connect(b)
			s.CloseWrite()
			if _, err := s.Read(make([]byte, 1)); err != io.EOF {
				b.Fatal(err)
			}
			s.Close()
		}
	})
}

func BenchmarkOneByte(b *testing.B) {
	measure(b, func(b *testing.B, c connector) {
		s := c.connect(b)
		defer s.Close()
		buf := []byte("x")
		for b.Loop() {
			if _, err := s.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSend(b *testing.B) {
	measure(b, func(b *testing.B, c connector) {
		b.SetBytes(burst)
		s := c.connect(b)
		defer s.Close()
		buf := make([]byte, 64<<10)
		for b.Loop() {
			for range burst / len(buf) {
				if _, err := s.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := s.Read(buf[:1]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReceive(b *testing.B) {
	measure(b, func(b *testing.B, c connector) {
		b.SetBytes(burst)
		s := c.connect(b)
		defer s.Close()
		buf := make([]byte, 64<<10)
		for b.Loop() {
			if _, err := s.Write([]byte("g")); err != nil {
				b.Fatal(err)
			}
			for range burst / len(buf) {
				if _, err := io.ReadFull(s, buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
