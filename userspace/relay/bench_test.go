package relay

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// newEchoRig carries flows to edges that return what they are sent.
func newEchoRig(b *testing.B) *rig {
	b.Helper()
	var streams sync.WaitGroup
	r := newRig(b, echoDialer(&streams))
	r.serve(b.Context())
	b.Cleanup(streams.Wait)
	return r
}

func (r *rig) dial() *net.TCPConn {
	r.tb.Helper()
	conn, err := net.Dial("tcp4", r.listener.Addr().String())
	if err != nil {
		r.tb.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func BenchmarkOneByte(b *testing.B) {
	app := newEchoRig(b).dial()
	defer app.Close()
	b.ReportAllocs()
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := app.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(app, one); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBulk(b *testing.B) {
	const chunk = 1 << 20
	b.Run("to edge", func(b *testing.B) {
		c := newCarried(b)
		b.SetBytes(chunk)
		b.ReportAllocs()
		data, got := make([]byte, chunk), make([]byte, chunk)
		for b.Loop() {
			transfer(b, c.app, c.edge, data, got)
		}
		c.edge.reset()
		<-c.done
	})
	b.Run("to application", func(b *testing.B) {
		c := newCarried(b)
		b.SetBytes(chunk)
		b.ReportAllocs()
		data, got := make([]byte, chunk), make([]byte, chunk)
		for b.Loop() {
			transfer(b, c.edge, c.app, data, got)
		}
		c.edge.reset()
		<-c.done
	})
}

// transfer moves data from one end of a flow to the other.
func transfer(b *testing.B, from io.Writer, to io.Reader, data, got []byte) {
	b.Helper()
	wrote := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		wrote <- err
	}()
	if _, err := io.ReadFull(to, got); err != nil {
		b.Fatal(err)
	}
	if err := <-wrote; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOpenClose opens a flow, ends it and waits for the end at both
// sides; the baseline is what the application and accept(2) cost alone.
func BenchmarkOpenClose(b *testing.B) {
	b.Run("carried", func(b *testing.B) {
		r := newRig(b, plain(silentDialer(0, true)))
		r.serve(b.Context())
		b.ReportAllocs()
		for b.Loop() {
			r.openClose()
		}
	})
	b.Run("baseline", func(b *testing.B) {
		r := newRig(b, nil)
		r.serveWith(func(conn *net.TCPConn) {
			conn.Read(make([]byte, 1))
			conn.Close()
		})
		b.ReportAllocs()
		for b.Loop() {
			r.openClose()
		}
	})
}

func (r *rig) openClose() {
	app := r.dial()
	app.CloseWrite()
	if _, err := app.Read(make([]byte, 1)); err != io.EOF {
		r.tb.Fatal(err)
	}
	app.Close()
}

// silentStream gives the application some bytes and then its end, or nothing.
type silentStream struct {
	left  int
	fin   bool
	reset chan struct{}
}

func (s *silentStream) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, struct{ io.Reader }{io.LimitReader(s, int64(s.left))})
	if err == nil {
		_, err = s.Read(make([]byte, 1))
	}
	return n, ignoreEOF(err)
}

func silentDialer(bytes int, fin bool) Dialer {
	return dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		return &silentStream{left: bytes, fin: fin, reset: make(chan struct{})}, testRoute, nil
	})
}

// plain hides what a stream can do beyond Stream.
func plain(d Dialer) Dialer {
	return dialFunc(func(ctx context.Context, rec flow.Record) (Stream, flow.Route, error) {
		s, route, err := d.Connect(ctx, rec)
		return struct{ Stream }{s}, route, err
	})
}

func (s *silentStream) Read(p []byte) (int, error) {
	switch n := min(s.left, len(p)); {
	case n > 0:
		s.left -= n
		return n, nil
	case s.fin:
		return 0, io.EOF
	}
	<-s.reset
	return 0, errTestReset
}

func (s *silentStream) Write(p []byte) (int, error) { return len(p), nil }
func (s *silentStream) CloseWrite() error           { return nil }
func (s *silentStream) Close() error                { return nil }

func (s *silentStream) Reset() error {
	close(s.reset)
	return nil
}

// BenchmarkIdle reports what a flow costs that was used and is now silent. The
// baseline is an accepted connection that nobody reads.
func BenchmarkIdle(b *testing.B) {
	const flows = 2000
	for name, dialer := range map[string]Dialer{
		"stream with WriterTo": silentDialer(100_000, false),
		"plain stream":         plain(silentDialer(100_000, false)),
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, dialer)
			r.serve(b.Context())
			for b.Loop() {
				b.ReportMetric(memoryOf(flows, r.use), "B/flow")
			}
		})
	}
	b.Run("baseline", func(b *testing.B) {
		r := newRig(b, nil)
		for b.Loop() {
			b.ReportMetric(memoryOf(flows, r.connect), "B/flow")
		}
	})
}

// memoryOf returns the heap and stacks that each of n opened flows holds.
func memoryOf(n int, open func() io.Closer) float64 {
	before := memory()
	opened := make([]io.Closer, n)
	for i := range opened {
		opened[i] = open()
	}
	held := memory() - before
	for _, o := range opened {
		o.Close()
	}
	return float64(held) / float64(n)
}

func memory() uint64 {
	runtime.GC()
	runtime.GC() // the first one only moves the pools' buffers aside
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// use opens a flow and moves 100 KB through it, each way.
func (r *rig) use() io.Closer {
	app := r.dial()
	data := make([]byte, 100_000)
	if _, err := app.Write(data); err != nil {
		r.tb.Fatal(err)
	}
	if _, err := io.ReadFull(app, data); err != nil {
		r.tb.Fatal(err)
	}
	return app
}

type both struct{ app, accepted *net.TCPConn }

func (b both) Close() error {
	b.app.Close()
	return b.accepted.Close()
}

func (r *rig) connect() io.Closer {
	app, accepted := r.pair()
	return both{app, accepted}
}

// BenchmarkOneByteDirect is the baseline of BenchmarkOneByte: no relay.
func BenchmarkOneByteDirect(b *testing.B) {
	app, accepted := newRig(b, nil).pair()
	go io.Copy(struct{ io.Writer }{accepted}, struct{ io.Reader }{accepted})
	defer accepted.Close()
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := app.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(app, one); err != nil {
			b.Fatal(err)
		}
	}
}
