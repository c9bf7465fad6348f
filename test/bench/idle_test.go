package bench

import (
	"testing"
	"time"
)

// idle is what flows cost that are silent.
type idle struct {
	Flows int          `json:"flows"`
	Setup float64      `json:"connections_per_second"` // while they are made
	Bytes []idleMemory `json:"memory"`
}

// idleMemory is what a process grew by.
type idleMemory struct {
	Role      string  `json:"role"`
	PerFlow   float64 `json:"bytes_per_flow"`           // resident, as it comes
	Collected float64 `json:"bytes_per_flow_collected"` // resident, after its garbage was collected
}

// holdIdle holds flows through agent and edge and reads what these grew by.
func (b *bed) holdIdle(t *testing.T, flows int) *idle {
	t.Helper()
	c := b.contender("acquired")
	watched := []*child{c.carrier("agent"), c.carrier("edge")}
	before := make(map[*child]int)
	for _, p := range watched {
		p.ask(t, order{Do: "collect"})
		before[p] = p.residentBytes(t)
	}
	a := c.application.ask(t, order{Do: "hold", To: c.at(portEcho), Flows: flows})
	<-time.After(500 * time.Millisecond)

	i := &idle{Flows: flows, Setup: a.Count / a.Elapsed.Seconds()}
	for _, p := range watched {
		m := idleMemory{Role: p.role, PerFlow: float64(p.residentBytes(t)-before[p]) / float64(flows)}
		p.ask(t, order{Do: "collect"})
		m.Collected = float64(p.residentBytes(t)-before[p]) / float64(flows)
		i.Bytes = append(i.Bytes, m)
		if m.PerFlow <= 0 {
			t.Errorf("%s: %+v, want memory", p.role, m)
		}
	}
	c.application.ask(t, order{Do: "release"})
	return i
}
