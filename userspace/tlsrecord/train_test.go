package tlsrecord

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// rails remembers what goes over them, and by how many writes.
type rails struct {
	net.Conn
	bytes  []byte
	writes []int
	err    error
}

func (r *rails) Write(p []byte) (int, error) {
	r.bytes, r.writes = append(r.bytes, p...), append(r.writes, len(p))
	return len(p), r.err
}

// cutter makes records of bare bytes, as TLS does of encrypted ones.
type cutter struct{ net.Conn }

func (c cutter) Write(p []byte) (n int, err error) {
	for record := range slices.Chunk(p, Len) {
		if n, err = c.Conn.Write(record); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func TestRecordsOfOneWriteAreSentTogether(t *testing.T) {
	for _, test := range []struct {
		length int
		want   []int
	}{
		{1, []int{1}},
		{Len, []int{Len}},
		{Len + 1, []int{Len + 1}},
		{trainLen, []int{trainLen}},
		{2*trainLen + 1, []int{trainLen, trainLen, 1}},
	} {
		below := &rails{}
		on := &Train{Conn: below}
		p := bytes.Repeat([]byte("train"), test.length)[:test.length]
		if n, err := on.Gather(cutter{on}, p); n != test.length || err != nil {
			t.Errorf("%d bytes: wrote %d, %v", test.length, n, err)
		}
		if diff := cmp.Diff(test.want, below.writes); diff != "" || !bytes.Equal(below.bytes, p) {
			t.Errorf("%d bytes: same %t, writes:\n%s", test.length, bytes.Equal(below.bytes, p), diff)
		}
	}
}

func TestTrainThatBreaksDownEndsTheWrite(t *testing.T) {
	below := &rails{err: errors.New("broken")}
	on := &Train{Conn: below}
	if _, err := on.Gather(cutter{on}, make([]byte, 2*trainLen)); !errors.Is(err, below.err) || len(below.writes) != 1 {
		t.Errorf("got %v after %d writes, want %v after one", err, len(below.writes), below.err)
	}
	below.err = nil
	if n, err := on.Write([]byte("direct")); n != len("direct") || err != nil || len(below.writes) != 2 {
		t.Errorf("next write: %d bytes, %v, %d writes in all, want it sent at once", n, err, len(below.writes))
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Writers may be many: TLS puts their records in an order, and the peer takes
// them in no other.
func TestRecordsOfManyWritersKeepTheirOrder(t *testing.T) {
	const writers, writes = 4, 200
	below := &ordered{}
	on := &Train{Conn: below}
	secure := &numberer{on: on}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for range writes {
				length := Len/2 + w*Len // short and long writes
				if _, err := on.Gather(secure, make([]byte, length)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if below.wrong != 0 || below.seen != secure.made {
		t.Errorf("%d of %d records arrived, %d out of order", below.seen, secure.made, below.wrong)
	}
}

// numberer makes a record of every write and numbers it, under a lock as TLS has.
type numberer struct {
	on   net.Conn
	mu   sync.Mutex
	made int
}

func (n *numberer) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made++
	if _, err := n.on.Write([]byte{byte(n.made >> 8), byte(n.made)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ordered checks the numbers.
type ordered struct {
	net.Conn
	mu    sync.Mutex
	seen  int
	wrong int
}

func (o *ordered) Write(p []byte) (int, error) {
	runtime.Gosched() // lets others overtake, if they can
	o.mu.Lock()
	defer o.mu.Unlock()
	for record := range slices.Chunk(p, 2) {
		o.seen++
		if int(record[0])<<8|int(record[1]) != o.seen {
			o.wrong++
		}
	}
	return len(p), nil
}
