package bench

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// comparison is one thing that all contenders do in turn.
type comparison struct {
	Name string `json:"name"`
	Unit string `json:"unit"` // of Value
	Per  string `json:"per"`  // what the processor time is counted by

	// Results are in the order of the contenders, direct first.
	Results []result `json:"results"`

	place string // of the applications, on the packet path
	order order
	warms bool // one flow for the whole turn, which takes a while to get up to speed
	port  uint16
	value func(answer) float64
	per   float64            // how many of what is counted make one of Per
	least map[string]float64 // ratios to reach, by contender
	most  map[string]float64 // ratios not to exceed
}

// result is what one contender reached.
type result struct {
	Contender string  `json:"contender"`
	Value     float64 `json:"value"`  // median of the rounds
	Ratio     float64 `json:"ratio"`  // median of the rounds' ratios to direct
	Lower     float64 `json:"lower"`  // quartile of the rounds' ratios
	Upper     float64 `json:"upper"`  // quartile of the rounds' ratios
	Target    string  `json:"target"` // of the ratio; empty is none

	// Processor is the processor time in microseconds for one of Per, by the
	// role of the process. Packets are handled in whichever process happens to
	// run, so only the sum is exact.
	Processor map[string]float64 `json:"processor_us"`
}

func comparisons() []comparison {
	rate := func(a answer) float64 { return a.Count / a.Elapsed.Seconds() }
	megabits := func(a answer) float64 { return rate(a) * 8 / 1e6 }
	microseconds := func(a answer) float64 { return a.Median.Seconds() * 1e6 }
	const megabyte = 1e6
	untouched := map[string]float64{"bypassed": 0.99}
	return []comparison{
		{
			Name: "connections", Unit: "1/s", Per: "connection", value: rate, per: 1,
			order: order{Do: "connections", Flows: 16}, port: portEcho,
			least: map[string]float64{"bypassed": 0.99, "acquired": 0.65},
		},
		{
			Name: "one byte", Unit: "µs", Per: "round trip", value: microseconds, per: 1,
			order: order{Do: "round trips"}, warms: true, port: portEcho,
			most: map[string]float64{"acquired": 3.6},
		},
		{
			Name: "one flow down", Unit: "Mbit/s", Per: "MB", value: megabits, per: megabyte,
			order: order{Do: "download", Flows: 1}, warms: true, port: portSource,
			least: map[string]float64{"bypassed": 0.99, "acquired": 0.43},
		},
		{
			Name: "one flow up", Unit: "Mbit/s", Per: "MB", value: megabits, per: megabyte,
			order: order{Do: "upload", Flows: 1}, warms: true, port: portSink,
			least: map[string]float64{"bypassed": 0.99, "acquired": 0.43},
		},
		{
			Name: "eight flows down", Unit: "Mbit/s", Per: "MB", value: megabits, per: megabyte,
			order: order{Do: "download", Flows: 8}, warms: true, port: portSource, least: untouched,
		},
		{
			Name: "eight flows up", Unit: "Mbit/s", Per: "MB", value: megabits, per: megabyte,
			order: order{Do: "upload", Flows: 8}, warms: true, port: portSink, least: untouched,
		},
	}
}

// turns are what one contender has measured so far.
type turns struct {
	values    []float64
	count     float64
	processor map[string]time.Duration
}

// compare lets contenders take turns, each round beginning with another.
func compare(t *testing.T, contenders []contender, c comparison, p pace) comparison {
	t.Helper()
	c.order.For = p.slice
	if c.warms {
		c.order.Warm = p.warm
	}
	all := make([]turns, len(contenders))
	for round := range p.rounds {
		for i := range contenders {
			i = (i + round) % len(contenders)
			takeTurn(t, c, contenders[i], &all[i])
		}
	}
	for _, who := range contenders {
		profileTurn(t, c, who)
	}
	for i, contender := range contenders {
		r := c.judge(contender.name, all[i], all[0])
		if r.Value <= 0 || r.Ratio <= 0 {
			t.Errorf("%s: %+v, want values", contender.name, r)
		}
		c.Results = append(c.Results, r)
	}
	return c
}

func takeTurn(t *testing.T, c comparison, who contender, into *turns) {
	t.Helper()
	o := c.order
	o.To = who.at(c.port)
	before := make(map[*child]time.Duration)
	for _, p := range who.everyone() {
		before[p] = p.processorTime(t)
	}
	a := who.application.ask(t, o)
	<-time.After(10 * time.Millisecond) // for what is still being closed
	if into.processor == nil {
		into.processor = make(map[string]time.Duration)
	}
	for _, p := range who.everyone() {
		into.processor[p.role] += p.processorTime(t) - before[p]
	}
	// The processors also work while flows warm up.
	into.count += a.Count * float64(o.Warm+o.For) / float64(o.For)
	into.values = append(into.values, c.value(a))
}

// profileTurn has agent and edge write what they spend their time on, if asked to,
// in a turn that does not count, if the contender has both.
func profileTurn(t *testing.T, c comparison, who contender) {
	t.Helper()
	watched := []*child{who.carrier("agent"), who.carrier("edge")}
	if *profiles == "" || slices.Contains(watched, nil) {
		return
	}
	for _, p := range watched {
		name := strings.NewReplacer(" ", "-", ",", "", ":", "", "/", "").Replace(p.role+" "+who.name+" "+c.Name) + ".pprof"
		p.ask(t, order{Do: "profile", Path: filepath.Join(*profiles, name)})
	}
	c.order.For = 3 * time.Second
	takeTurn(t, c, who, &turns{})
	for _, p := range watched {
		p.ask(t, order{Do: "profile"})
	}
}

// judge makes a contender's result of its turns and those of direct flows.
func (c comparison) judge(name string, of, direct turns) result {
	r := result{Contender: name, Value: median(of.values), Processor: make(map[string]float64)}
	ratios := make([]float64, len(of.values))
	for i := range ratios {
		ratios[i] = of.values[i] / direct.values[i]
	}
	slices.Sort(ratios)
	r.Lower, r.Ratio, r.Upper = ratios[len(ratios)/4], median(ratios), ratios[len(ratios)*3/4]
	for role, used := range of.processor {
		r.Processor[role] = used.Seconds() * 1e6 / of.count * c.per
	}
	if least, ok := c.least[name]; ok {
		r.Target = goal("≥", least, r.Ratio >= least)
	}
	if most, ok := c.most[name]; ok {
		r.Target = goal("≤", most, r.Ratio <= most)
	}
	return r
}

// median of values that there are.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// differences of two series, round by round.
func differences(of, to []float64) []float64 {
	d := make([]float64, len(of))
	for i := range d {
		d[i] = of[i] - to[i]
	}
	return d
}
