package tunnel

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestNothingIsLeftOfFlowsThatEndAnyhow runs flows that end in all the ways they
// can, many at once, and wants the connections to be as new after them.
func TestNothingIsLeftOfFlowsThatEndAnyhow(t *testing.T) {
	o := stockEdge(t, true, func(authority string, stream io.ReadWriteCloser) {
		switch authority {
		case "deaf.example:1":
			stream.Write([]byte("deaf"))
		case "mute.example:1":
			io.Copy(io.Discard, stream)
		default:
			echo(authority, stream)
		}
	})
	o.Connections = 2
	tun := newTunnel(t, o)
	var flows sync.WaitGroup
	for i := range 400 {
		flows.Go(func() { endAnyhow(t, tun, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	flows.Wait()

	tun.pool.mu.Lock()
	conns := tun.pool.conns
	tun.pool.mu.Unlock()
	if len(conns) == 0 {
		t.Error("no connection is left")
	}
	for _, c := range conns {
		c.mu.Lock()
		if len(c.streams) != 0 || c.load.Load() != 0 || c.budget != windowBudget || len(c.turns) != 0 || c.err != nil {
			t.Errorf("%d streams, load %d, budget %d, %d turns and error %v are left",
				len(c.streams), c.load.Load(), c.budget, len(c.turns), c.err)
		}
		c.mu.Unlock()
	}
}

func endAnyhow(t *testing.T, tun *Tunnel, random *rand.Rand) {
	authority := []string{"echo.example:1", "deaf.example:1", "mute.example:1"}[random.IntN(3)]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if random.IntN(10) == 0 {
		go cancel()
	}
	s, err := tun.Connect(ctx, authority)
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return
	}
	defer s.Close()
	var writing sync.WaitGroup
	defer writing.Wait()
	early, sent := random.IntN(4) == 0, random.IntN(200<<10)
	writing.Go(func() {
		if _, err := s.Write(make([]byte, sent)); err == nil {
			s.CloseWrite()
		}
	})
	if early {
		io.CopyN(io.Discard, s, int64(random.IntN(1+sent)))
		s.Reset()
		return
	}
	io.Copy(io.Discard, s)
}
