package edge

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

func sized(sizes ...int) (batch [][]byte) {
	for i, size := range sizes {
		batch = append(batch, bytes.Repeat([]byte{byte(i + 1)}, size))
	}
	return batch
}

func repeated(n, size int) []int { return slices.Repeat([]int{size}, n) }

func TestTrainsAreOfOneSizeAndAShorterEnd(t *testing.T) {
	tests := []struct {
		name    string
		sizes   []int
		largest int
		want    []int // datagrams of each message
	}{
		{"one", []int{100}, mmsg.TrainSize, []int{1}},
		{"equal", []int{100, 100, 100}, mmsg.TrainSize, []int{3}},
		{"shorter at the end", []int{100, 100, 40, 40}, mmsg.TrainSize, []int{3, 1}},
		{"longer ends a train", []int{100, 200, 200}, mmsg.TrainSize, []int{1, 2}},
		{"empty ones go alone", []int{0, 0, 100, 0, 100}, mmsg.TrainSize, []int{1, 1, 1, 1, 1}},
		{"too long for a train", []int{1500, 1500, 1400, 1400}, 1400, []int{1, 1, 2}},
		{"no trains", []int{100, 100}, 0, []int{1, 1}},
		{"as much as a packet holds", repeated(4, 30000), mmsg.TrainSize, []int{2, 2}},
		{"as many as one call takes", repeated(sendSlots+1, 10), mmsg.TrainSize, []int{sendSlots}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := new(outlet)
			n := o.fill(sized(test.sizes...), test.largest)
			if got := o.counts[:n]; !slices.Equal(got, test.want) {
				t.Errorf("messages of %v datagrams, want %v", got, test.want)
			}
			for i, m := range o.messages[:n] {
				if trained := m.Control != nil; trained != (o.counts[i] > 1) {
					t.Errorf("message %d of %d datagrams: a segment size is given = %t", i, o.counts[i], trained)
				}
			}
		})
	}
}

// udpPair is a flow's socket on loopback and the socket that it is connected to.
func udpPair(tb testing.TB) (*datagrams, *net.UDPConn) {
	tb.Helper()
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := net.DialUDP("udp4", nil, peer.LocalAddr().(*net.UDPAddr))
	if err != nil {
		tb.Fatal(err)
	}
	metrics, err := newMetrics(nil)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := (&Edge{metrics: metrics, options: Options{UDPIdleTimeout: time.Hour}}).newDatagrams(conn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		d.close()
		peer.Close()
	})
	return d, peer
}

func TestTrainsArriveAsTheirDatagrams(t *testing.T) {
	d, peer := udpPair(t)
	sent := sized(slices.Concat(repeated(20, 900), []int{300}, repeated(10, 50), []int{0, 1400}, repeated(5, 4000), []int{65507})...)
	d.send(sent)
	p := make([]byte, 64<<10)
	for i, want := range sent {
		peer.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := peer.Read(p)
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("datagram %d: %d bytes, %v, want %d", i, n, err, len(want))
		}
	}
}

// A sender's train arrives whole, and is taken apart.
func TestReceivedTrainsAreTakenApart(t *testing.T) {
	d, peer := udpPair(t)
	train := sized(append(repeated(10, 1200), 7)...)
	control := make([]byte, unix.CmsgSpace(2))
	s := new(segmentSize)
	s.set(1200)
	copy(control, unsafe.Slice((*byte)(unsafe.Pointer(s)), len(control)))
	if _, _, err := peer.WriteMsgUDP(bytes.Join(train, nil), control, d.conn.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for len(got) < len(train) {
		err := d.receive(func(in *intake) {
			for p := range in.datagrams() {
				got = append(got, bytes.Clone(p))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.EqualFunc(got, train, bytes.Equal) {
		t.Errorf("received %d datagrams, and not what was sent", len(got))
	}
}

func TestWhatASocketDoesNotTakeIsDroppedAndCounted(t *testing.T) {
	d, _ := udpPair(t)
	d.conn.SetWriteBuffer(1)
	tooLong := sized(65508)
	d.send(tooLong)
	d.send(sized(10))
	if n := testutil.ToFloat64(d.metrics.datagramsDropped); n != 1 {
		t.Errorf("%v datagrams are dropped, want the one of 65508 bytes", n)
	}
	if n := testutil.ToFloat64(d.metrics.datagramsSent); n != 1 {
		t.Errorf("%v datagrams are sent, want the short one", n)
	}
}
