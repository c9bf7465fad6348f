package dns

import (
	"context"
	"net/netip"
	"sync"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// client is who is held to the limits of a process: the process or, where that
// is not known, the address.
type client struct {
	pid  uint32
	uid  uint32
	addr netip.Addr
}

// person reports whether the client is a process of a user who is held to a
// share, however many processes there are.
func (c client) person() bool { return c.uid >= flow.SystemUsers }

func clientOf(by flow.Query, addr netip.Addr) client {
	if by.HasAsker {
		return client{pid: by.PID, uid: by.UID}
	}
	return client{addr: addr}
}

// quota bounds what is under way in all and by client. It holds no client of
// whom nothing is.
type quota struct {
	all, each int

	mu      sync.Mutex
	total   int
	clients map[client]int
	users   map[uint32]int // of people
	freed   chan struct{}  // closed when something ends; nil: nobody waits
}

// excess says which bound was met.
type excess uint8

const (
	excessNone excess = iota
	excessAll
	excessClient
)

// take counts one in, to be counted out by release, unless a bound is met.
func (q *quota) take(c client) excess {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.claim(c)
}

// claim is take for who holds the lock.
func (q *quota) claim(c client) excess {
	switch {
	case q.total >= q.all:
		return excessAll
	case q.clients[c] >= q.each, c.person() && q.users[c.uid] >= max(q.each, q.all/2):
		return excessClient
	}
	if c.person() {
		if q.users == nil {
			q.users = make(map[uint32]int)
		}
		q.users[c.uid]++
	}
	if q.clients == nil {
		q.clients = make(map[client]int)
	}
	q.total++
	q.clients[c]++
	return excessNone
}

// wait is take that waits while a bound is met, until ctx is done.
func (q *quota) wait(ctx context.Context, c client) bool {
	for {
		q.mu.Lock()
		if q.claim(c) == excessNone {
			q.mu.Unlock()
			return true
		}
		if q.freed == nil {
			q.freed = make(chan struct{})
		}
		freed := q.freed
		q.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}

func (q *quota) release(c client) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.clients[c]--; q.clients[c] == 0 {
		delete(q.clients, c)
	}
	if c.person() {
		if q.users[c.uid]--; q.users[c.uid] == 0 {
			delete(q.users, c.uid)
		}
	}
	if q.freed != nil {
		close(q.freed)
		q.freed = nil
	}
}

// pending returns how many are under way.
func (q *quota) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}
