package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/bpfacq/bpfacq/userspace/channel"
)

// lateEpochs is how many superseded epochs stay known although no flow of
// theirs is carried: a flow may have been decided just before the flip and be
// accepted after it.
const lateEpochs = 64

// epoch is what is needed of one generation of the policy to carry its flows:
// by the index of the rule, which channel. It is small, and lives on after its
// policy for as long as flows of it do.
type epoch struct {
	generation uint32
	routes     []route
	carriers   []*carrier     // each once
	pools      []netip.Prefix // of synthetic addresses

	flows      int // that are carried
	superseded bool
}

// route is where the flows of one rule go.
type route struct {
	rule, channel string
	carrier       *carrier // nil while another relay carries the flows
}

// carrier is a channel that the epochs which use it share, so that a policy
// change which does not touch the channel keeps its connections.
type carrier struct {
	*channel.Channel
	key    string
	epochs int
}

// epochs are the generations of which flows can still come or are carried.
type epochs struct {
	log *slog.Logger

	mu       sync.Mutex
	known    map[uint32]*epoch
	late     []uint32 // superseded, oldest first
	carriers map[string]*carrier
	closing  sync.WaitGroup
}

func newEpochs(log *slog.Logger) *epochs {
	return &epochs{log: log, known: make(map[uint32]*epoch), carriers: make(map[string]*carrier)}
}

// carrier returns the carrier of key, or a new one around what make returns. A
// new one belongs to no epoch yet: see sweep.
func (s *epochs) carrier(key string, make func() *channel.Channel) *carrier {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.carriers[key]
	if !ok {
		c = &carrier{Channel: make(), key: key}
		s.carriers[key] = c
	}
	return c
}

// add makes an epoch known. Do it before the programs see its generation.
func (s *epochs) add(e *epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[e.generation] = e
	for _, c := range e.carriers {
		c.epochs++
	}
}

// sweep closes the carriers that belong to no epoch: those of a policy that was
// prepared and then not put in force.
func (s *epochs) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.carriers {
		if c.epochs == 0 {
			s.closeCarrier(c)
		}
	}
}

// forget drops an epoch that was never put in force.
func (s *epochs) forget(e *epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(e)
}

// supersede notes that a generation is no longer in force. Nil is fine.
func (s *epochs) supersede(e *epoch) {
	if e == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.superseded = true
	s.late = append(s.late, e.generation)
	if len(s.late) <= lateEpochs {
		return
	}
	oldest := s.known[s.late[0]]
	s.late = s.late[1:]
	if oldest != nil && oldest.flows == 0 {
		s.drop(oldest)
	}
}

// retry has every channel look for its edges at once.
func (s *epochs) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.carriers {
		c.Retry()
	}
}

// hold keeps the epoch of a flow known until release. It returns nil for a
// generation of which no flow can come.
func (s *epochs) hold(generation uint32) *epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[generation]
	if e != nil {
		e.flows++
	}
	return e
}

// release undoes hold.
func (s *epochs) release(e *epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flows--
	late := len(s.late) > 0 && e.generation >= s.late[0]
	if e.superseded && e.flows == 0 && !late {
		s.drop(e)
	}
}

// route returns where a rule's flows go, and false if the epoch is not known.
func (s *epochs) route(generation, rule uint32) (route, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[generation]
	if e == nil || int(rule) >= len(e.routes) {
		return route{}, false
	}
	return e.routes[rule], true
}

// synthetic reports whether an address stood for a name in a generation.
func (s *epochs) synthetic(generation uint32, addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[generation]
	return e != nil && slices.ContainsFunc(e.pools, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// drop forgets an epoch and closes the channels that no other one uses.
func (s *epochs) drop(e *epoch) {
	delete(s.known, e.generation)
	for _, c := range e.carriers {
		if c.epochs--; c.epochs == 0 {
			s.closeCarrier(c)
		}
	}
}

func (s *epochs) closeCarrier(c *carrier) {
	delete(s.carriers, c.key)
	s.closing.Go(func() {
		if err := c.Close(); err != nil {
			s.log.Warn("close channel", slog.Any("error", err))
		}
	})
}

// close closes every channel and waits for them.
func (s *epochs) close() {
	s.mu.Lock()
	for _, c := range s.carriers {
		s.closeCarrier(c)
	}
	clear(s.known)
	s.mu.Unlock()
	s.closing.Wait()
}
