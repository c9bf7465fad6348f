package dns

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// serversKnown bounds how many servers are remembered.
const serversKnown = 64

// servers are those that were asked lately.
type servers struct {
	mu    sync.Mutex
	known map[path]*asked
}

// asked is what is known of one of them.
type asked struct {
	queries, answers, timeouts, failures uint64
	cause                                string
	last                                 time.Time
	latency                              histogram
}

// of returns what is known of a server, in the place of who was not asked
// longest if there are too many. The caller holds the lock.
func (s *servers) of(p path) *asked {
	a, ok := s.known[p]
	if ok {
		return a
	}
	if s.known == nil {
		s.known = make(map[path]*asked)
	}
	if len(s.known) >= serversKnown {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(s.known)), func(a, b path) int {
			return s.known[a].last.Compare(s.known[b].last)
		})
		delete(s.known, oldest)
	}
	a = new(asked)
	s.known[p] = a
	return a
}

// asked notes a query and what came of it.
func (s *servers) asked(p path, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.of(p)
	a.last = time.Now()
	a.queries++
	switch {
	case err == nil:
		a.answers++
		a.latency.add(took)
		return
	case expired(err):
		a.timeouts++
	default:
		a.failures++
	}
	a.cause = err.Error()
}

// sent and answered note messages that nobody waits for each of.
func (s *servers) sent(p path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.of(p)
	a.last = time.Now()
	a.queries++
}

func (s *servers) answered(p path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(p).answers++
}

// status lists the servers, the most asked first.
func (s *servers) status() []ServerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ServerStatus, 0, len(s.known))
	for p, a := range s.known {
		list = append(list, ServerStatus{
			Server: p.server, Way: p.way, Queries: a.queries, Answers: a.answers, Timeouts: a.timeouts,
			Failures: a.failures, Cause: a.cause, Latency: a.latency.latency(),
		})
	}
	slices.SortFunc(list, func(a, b ServerStatus) int {
		return cmp.Or(cmp.Compare(b.Queries, a.Queries), a.Server.Compare(b.Server), cmp.Compare(a.Way, b.Way))
	})
	return list
}
