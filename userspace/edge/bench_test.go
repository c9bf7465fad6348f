package edge

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// reportCPU adds the processor time of client, edge and origin together, which
// other load on the machine disturbs less than the wall clock.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begun := used()
	return func() { b.ReportMetric(float64(used()-begun)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkStreams(b *testing.B) {
	_, addr, config := serve(b)
	// The origin closes first, so that no port of the edge waits in TIME_WAIT.
	origin := serveOrigin(b, func(conn *net.TCPConn) {
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	c := dialClient(b, addr, config)
	defer reportCPU(b)()
	for b.Loop() {
		s := c.connect(origin)
		if status, err := s.status(); status != "200" {
			b.Fatal(status, err)
		}
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			b.Fatal(err)
		}
		s.closeWrite()
		c.mu.Lock()
		delete(c.streams, s.id)
		c.mu.Unlock()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "streams/s")
}

func BenchmarkRoundTrip(b *testing.B) {
	_, addr, config := serve(b)
	origin := serveOrigin(b, func(conn *net.TCPConn) { echo(conn) })
	s := dialClient(b, addr, config).connect(origin)
	if status, err := s.status(); status != "200" {
		b.Fatal(status, err)
	}
	p := make([]byte, 1)
	defer reportCPU(b)()
	for b.Loop() {
		s.Write(p)
		if _, err := io.ReadFull(s, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	_, addr, config := serve(b)
	origin := serveOrigin(b, func(conn *net.TCPConn) {
		p := make([]byte, 256<<10)
		for {
			if _, err := conn.Write(p); err != nil {
				return
			}
		}
	})
	c := dialClient(b, addr, config, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 256 << 10})
	const chunk = 1 << 20
	chunks, received := make(chan struct{}), 0
	s := c.connect(origin)
	c.mu.Lock()
	s.discard = func(n int) {
		for received += n; received >= chunk; received -= chunk {
			c.framer.WriteWindowUpdate(0, chunk)
			c.framer.WriteWindowUpdate(s.id, chunk)
			select {
			case chunks <- struct{}{}:
			case <-b.Context().Done():
			}
		}
	}
	c.mu.Unlock()
	b.SetBytes(chunk)
	defer reportCPU(b)()
	for b.Loop() {
		<-chunks
	}
}

func BenchmarkUpload(b *testing.B) {
	_, addr, config := serve(b)
	origin := serveOrigin(b, func(conn *net.TCPConn) { io.Copy(io.Discard, struct{ io.Reader }{conn}) })
	s := dialClient(b, addr, config).connect(origin)
	if status, err := s.status(); status != "200" {
		b.Fatal(status, err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	defer reportCPU(b)()
	for b.Loop() {
		if _, err := s.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

func echo(conn *net.TCPConn) {
	p := make([]byte, 64<<10)
	for {
		n, err := conn.Read(p)
		if err != nil {
			return
		}
		conn.Write(p[:n])
	}
}
