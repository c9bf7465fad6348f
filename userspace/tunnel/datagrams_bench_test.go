package tunnel

import "testing"

// BenchmarkDatagrams sends batches to an origin that echoes them, one under way at
// a time, so that what is lost tells of rooms that are too small.
func BenchmarkDatagrams(b *testing.B) {
	const batchLen = 32
	for _, transport := range []Transport{TransportHTTP2, TransportHTTP3} {
		b.Run(string(transport), func(b *testing.B) {
			o := wholeEdge(b)
			o.Transport = transport
			d, r := connectUDP(b, newTunnel(b, o), echoUDP(b), string(transport))
			batch := make([][]byte, batchLen)
			for i := range batch {
				batch[i] = randomBytes(1200)
			}
			d.Send(batch[:1])
			r.next(b)
			b.ReportAllocs()
			before := processorTime(b)
			got := 0
			for b.Loop() {
				if err := d.Send(batch); err != nil {
					b.Fatal(err)
				}
				got += r.some(batchLen)
			}
			sent := float64(b.N * batchLen)
			b.ReportMetric(float64(processorTime(b)-before)/sent, "cpu-ns/datagram")
			b.ReportMetric(sent/b.Elapsed().Seconds(), "datagrams/s")
			b.ReportMetric(100*(1-float64(got)/sent), "%lost")
		})
	}
}
