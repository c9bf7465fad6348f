// Package bench measures flows that bpfacq carries or leaves alone beside those
// that go direct and those that other relays carry, in one run: contenders take
// turns round by round, so that what else the machine does hits all alike, and a
// ratio is the median of the ratios of the rounds.
//
// Without -full it runs just long enough to see that every figure comes about.
package bench

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
)

var (
	full     = flag.Bool("full", false, "measure for minutes, instead of just once")
	jsonFile = flag.String("json", "", "write the figures as JSON to this `file`")
	profiles = flag.String("profiles", "", "write CPU profiles of agent and edge to this `folder`, which slows both")
	against  = flag.String("against", "", "let agent and edge of this other `build` of the test contend too")
	only     = flag.String("only", "", "measure only the figures whose name contains this `text`")
)

func TestMain(m *testing.M) {
	os.Exit(testutil.Main(m, map[string]testutil.Scenario{
		"application": applicationScenario,
		"target":      targetScenario,
		"agent":       agentScenario,
		"edge":        edgeScenario(false),
		"quic-edge":   edgeScenario(true),
		"plain-edge":  plainEdgeScenario,
	}))
}

// pace is how long to measure.
type pace struct {
	rounds   int           // in which each contender has one turn
	slice    time.Duration // that a turn is measured
	warm     time.Duration // before it, for flows to get up to speed
	connects int           // rounds of connect(), which have no warming up
	prefixes []int         // sizes of the policies to classify by
	idle     int           // flows held at the same time
}

func paceOf(full bool) pace {
	if full {
		return pace{
			rounds: 31, slice: 200 * time.Millisecond, warm: 60 * time.Millisecond, connects: 61,
			prefixes: []int{10, 10_000, 1_000_000}, idle: 10_000,
		}
	}
	return pace{
		rounds: 1, slice: 50 * time.Millisecond, warm: 20 * time.Millisecond, connects: 3,
		prefixes: []int{10, 10_000}, idle: 500,
	}
}

func TestContendersSideBySide(t *testing.T) {
	p := paceOf(*full)
	r := newReport(t, p)
	b := newBed(t, p.idle)
	r.describe(b.contenders)
	measure := func(name string, figure func(*testing.T)) {
		if strings.Contains(name, *only) {
			t.Run(name, figure)
		}
	}
	for _, c := range comparisons() {
		measure(c.Name, func(t *testing.T) { r.Comparisons = append(r.Comparisons, compare(t, b.contenders, c, p)) })
	}
	if wanted := wantedPackets(); len(wanted) > 0 {
		t.Run("packets", func(t *testing.T) { r.Packets = b.comparePackets(t, wanted, p) })
	}
	measure("connect", func(t *testing.T) { r.Connect = b.compareConnects(t, p) })
	measure("classification", func(t *testing.T) { r.Classification = b.classify(t, p) })
	measure("idle flows", func(t *testing.T) { r.Idle = b.holdIdle(t, p.idle) })
	r.finish(t)
}
