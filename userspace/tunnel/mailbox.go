package tunnel

import (
	"net"
	"sync"
)

// A mailbox holds so many datagrams, and bytes of them, at most.
const (
	mailboxSize  = 512
	mailboxBytes = 1 << 20
)

// mailbox holds the datagrams of a flow that nobody has taken yet.
type mailbox struct {
	mu     sync.Mutex
	filled sync.Cond // of mu
	batch  [][]byte
	bytes  int
	err    error // why there will be no more
}

// put adds a datagram, which the mailbox keeps, if there is room.
func (m *mailbox) put(payload []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || len(m.batch) >= mailboxSize || m.bytes+len(payload) > mailboxBytes {
		return false
	}
	m.batch = append(m.batch, payload)
	m.bytes += len(payload)
	m.filled.Signal()
	return true
}

// take waits for datagrams and returns all that there are. The caller is done
// with those of the last time.
func (m *mailbox) take(last [][]byte) ([][]byte, error) {
	clear(last)
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.batch) == 0 {
		if m.err != nil {
			return nil, m.err
		}
		m.filled.Wait()
	}
	batch := m.batch
	m.batch, m.bytes = last[:0], 0
	return batch, nil
}

// end lets take return err once the mailbox is empty.
func (m *mailbox) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	m.filled.Broadcast()
}

// close ends the mailbox, and empties it.
func (m *mailbox) close() {
	m.end(net.ErrClosed)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = net.ErrClosed
	m.batch, m.bytes = nil, 0
}

// over is why there will be no more, or nil.
func (m *mailbox) over() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}
