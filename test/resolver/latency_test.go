package resolver

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"text/tabwriter"
	"time"
)

var full = flag.Bool("full", false, "measure latencies for a minute at 5,000 queries a second, instead of just once")

// asked is one way for the queries of dnsperf to go.
type asked struct {
	name   string
	cgroup string // none: the hooks do not see them
	names  string // path of the file
	runs   []perf
}

// median is the middle of what figure is of the runs, in microseconds.
func (a *asked) median(figure func(perf) time.Duration) float64 {
	var values []float64
	for _, p := range a.runs {
		values = append(values, float64(figure(p).Nanoseconds())/1000)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// Contenders take turns, so that what else the machine does hits all alike.
func TestLatencyBesideAskingTheServerDirectly(t *testing.T) {
	count, rate, rounds := 500, 500, 1
	if *full {
		count, rate, rounds = 10_000, 5_000, 7
	}
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	acquired, ordinary := b.names(t, count, loadName), b.names(t, count, freeName)
	fresh := &asked{name: "acquired, new names", cgroup: b.cgroup, names: acquired}
	contenders := []*asked{
		{name: "direct, no hooks", names: ordinary},
		{name: "forwarded", cgroup: b.cgroup, names: ordinary},
		{name: "acquired, known names", cgroup: b.cgroup, names: acquired},
	}
	b.measure(t, fresh, count, rate)
	for round := range rounds {
		for i := range contenders {
			b.measure(t, contenders[(i+round)%len(contenders)], count, rate)
		}
	}

	p50 := func(p perf) time.Duration { return p.at(0.5) }
	p99 := func(p perf) time.Duration { return p.at(0.99) }
	direct := contenders[0]
	out := tabwriter.NewWriter(t.Output(), 0, 0, 3, ' ', 0)
	fmt.Fprintf(out, "%d names, %d queries/s, median of %d rounds, µs\tp50\tp99\tadded p50\tadded p99\tratio p50\tratio p99\tqueries\tlost\n", count, rate, rounds)
	for _, a := range append(contenders, fresh) {
		sent, lost := 0, 0
		for _, p := range a.runs {
			sent, lost = sent+p.sent, lost+p.lost
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.0f\t%+.0f\t%+.0f\t%.2f\t%.2f\t%d\t%d\n", a.name, a.median(p50), a.median(p99),
			a.median(p50)-direct.median(p50), a.median(p99)-direct.median(p99),
			a.median(p50)/direct.median(p50), a.median(p99)/direct.median(p99), sent, lost)
	}
	out.Flush()
}

// measure lets a contender have a turn, in which nothing may be lost.
func (b *bed) measure(t *testing.T, a *asked, count, rate int) {
	t.Helper()
	p := b.dnsperf(t, a.cgroup, a.names, rate)
	if p.sent != count || p.lost != 0 || p.noerror != count {
		t.Errorf("%s: %d of %d queries lost, %d answered", a.name, p.lost, p.sent, p.noerror)
	}
	a.runs = append(a.runs, p)
}
