// Package tlsrecord sends TLS records together: both ends of a tunnel write more at
// a time than one record holds.
package tlsrecord

import (
	"io"
	"net"
	"slices"
	"sync"
)

// Len is how many bytes a TLS record carries, RFC 8446 section 5.1.
const Len = 16 << 10

// trainLen is how many bytes of a write are sent together: about as many as the
// kernel takes through its layers as one packet.
const trainLen = 4 * Len

// Train lies between TLS and TCP. TLS makes a system call of every record, and
// the kernel a journey of every system call; a Train makes one of several records.
type Train struct {
	net.Conn

	gathering sync.Mutex // one writer at a time: two could send in another order than TLS made the records

	mu      sync.Mutex // not held while writing
	holding bool
	held    []byte
}

// Write sends records, or holds them back while Gather collects. TLS calls it in
// the order of the records, one call after the other.
func (t *Train) Write(records []byte) (int, error) {
	t.mu.Lock()
	if t.holding {
		defer t.mu.Unlock()
		t.held = append(t.held, records...)
		return len(records), nil
	}
	t.mu.Unlock()
	return t.Conn.Write(records)
}

// Gather writes p to secure, which is the TLS on t, and sends the records that
// this makes together.
func (t *Train) Gather(secure io.Writer, p []byte) (total int, err error) {
	if len(p) <= Len {
		return secure.Write(p)
	}
	t.gathering.Lock()
	defer t.gathering.Unlock()
	for part := range slices.Chunk(p, trainLen) {
		t.mu.Lock()
		t.holding = true
		t.mu.Unlock()
		n, err := secure.Write(part)
		total += n
		if sendErr := t.send(); err == nil {
			err = sendErr
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// send sends what is held back, also what the reader's half of TLS adds
// meanwhile, and then holds nothing back any more.
func (t *Train) send() (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.held) > 0 && err == nil {
		records := t.held
		t.held = nil
		t.mu.Unlock()
		_, err = t.Conn.Write(records)
		t.mu.Lock()
		if t.held == nil {
			t.held = records[:0]
		}
	}
	t.holding = false
	return err
}
