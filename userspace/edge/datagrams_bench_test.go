package edge

import (
	"net"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

// BenchmarkDatagrams echoes datagrams of 1,200 bytes, 16 under way at a time:
// few enough that no queue on the way drops one.
func BenchmarkDatagrams(b *testing.B) {
	const underWay = 16
	p := make([]byte, 1200)
	run := func(b *testing.B, flow testDatagrams) {
		for range underWay {
			flow.send(p)
		}
		b.SetBytes(int64(len(p)))
		report := reportCPU(b)
		for b.Loop() {
			if _, err := flow.receive(); err != nil {
				b.Fatal(err)
			}
			flow.send(p)
		}
		report()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "datagrams/s")
	}
	b.Run("direct", func(b *testing.B) {
		conn, err := net.Dial("udp4", serveUDP(b, "udp4", echoUDP))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		run(b, direct{conn, make([]byte, len(p))})
	})
	for name, open := range datagramProtocols {
		b.Run(name, func(b *testing.B) {
			_, addr, config := serve(b, speaking(name))
			run(b, open(b, addr, config, serveUDP(b, "udp4", echoUDP)))
		})
	}
}

// direct is a flow without an edge.
type direct struct {
	net.Conn
	room []byte
}

func (d direct) send(p []byte) error      { _, err := d.Write(p); return err }
func (d direct) receive() ([]byte, error) { n, err := d.Read(d.room); return d.room[:n], err }
func (d direct) finish()                  { d.Close() }
func (d direct) awaitEnd() error          { return nil }

// BenchmarkTrains sends batches of 32 datagrams of 1,200 bytes to a socket that
// nobody reads: what a datagram costs at the edge's socket.
func BenchmarkTrains(b *testing.B) {
	for name, largest := range map[string]int32{"trains": mmsg.TrainSize, "alone": 0} {
		b.Run(name, func(b *testing.B) {
			d, _ := udpPair(b)
			d.largest.Store(largest)
			batch := sized(repeated(32, 1200)...)
			b.SetBytes(32 * 1200)
			for b.Loop() {
				d.send(batch)
			}
		})
	}
}
