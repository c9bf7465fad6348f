package hostname

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	synthetic4 = netip.MustParseAddr("6.6.0.1")
	synthetic6 = netip.MustParseAddr("fd00:6::1")
	original   = netip.MustParseAddr("192.0.2.7")
)

// acquired is a query with all that can be known.
func acquired(name string) Query {
	return Query{
		Name: name, Synthetic: [2]netip.Addr{synthetic4, synthetic6}, Original: original, Acquired: true,
		Rule: "r1", Channel: "private", HasAsker: true, PID: 42, UID: 1000,
	}
}

// wantNames compares a table with what it should hold.
func wantNames(t *testing.T, table *Table, want ...Hostname) {
	t.Helper()
	got := table.Snapshot()
	if len(want) == 0 && len(got) == 0 {
		return
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func names(table *Table) (names []string) {
	for _, h := range table.Snapshot() {
		names = append(names, h.Name)
	}
	return names
}

func TestNameShowsWhatIsKnownOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(0)
		wantNames(t, table)
		first := time.Now()
		table.Seen(Query{Name: "Build.Corp.Example.", Rcode: 3})
		want := Hostname{Name: "build.corp.example", Queries: 1, Rcode: 3, First: first, Last: first}
		wantNames(t, table, want)

		time.Sleep(time.Second) // of the bubble's clock
		table.Seen(acquired("build.corp.example"))
		want.Synthetic, want.Original = []netip.Addr{synthetic4, synthetic6}, original
		want.Acquired, want.Rule, want.Channel = true, "r1", "private"
		want.PID, want.UID, want.Queries, want.Rcode, want.Last = 42, 1000, 2, 0, time.Now()
		wantNames(t, table, want)
	})
}

func TestQueryKeepsWhatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(0)
		table.Seen(acquired("n.example"))
		want := table.Snapshot()[0]

		table.Seen(Query{Name: "n.example", Acquired: true, Rule: "r2", Channel: "internet", Rcode: 2})
		want.Queries, want.Rule, want.Channel, want.Rcode = 2, "r2", "internet", 2
		wantNames(t, table, want)

		table.Seen(Query{Name: "n.example"}) // the policy has changed
		want.Queries, want.Rule, want.Channel, want.Rcode = 3, "", "", 0
		want.Acquired, want.Synthetic = false, nil
		wantNames(t, table, want)

		table.Seen(Query{Name: "n.example", Acquired: true, Synthetic: [2]netip.Addr{1: synthetic6}})
		want.Queries, want.Acquired, want.Synthetic = 4, true, []netip.Addr{synthetic6}
		wantNames(t, table, want)
	})
}

func TestFlowsAndOriginalsReachNamesThatWereAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(0)
		table.Seen(Query{Name: "a.example"})
		want := table.Snapshot()[0]
		table.Flow("A.example.")
		table.Flow("a.example")
		table.Learned("a.example.", original)
		table.Flow("b.example")
		table.Learned("b.example", original)
		table.Flow("..")
		want.Flows, want.Original = 2, original
		wantNames(t, table, want)
		table.Learned("a.example", netip.Addr{}) // it is gone
		want.Original = netip.Addr{}
		wantNames(t, table, want)
	})
}

func TestNoNameIsNotRemembered(t *testing.T) {
	table := NewTable(0)
	for _, name := range []string{"", ".", "a..b", `a\`} {
		table.Seen(Query{Name: name})
	}
	wantNames(t, table)
}

func TestFullTableForgetsTheNameUnusedLongest(t *testing.T) {
	table := NewTable(3)
	for _, name := range []string{"a", "b", "c"} {
		table.Seen(Query{Name: name})
	}
	table.Seen(Query{Name: "a"})
	table.Flow("b")
	table.Seen(Query{Name: "d"})
	if diff := cmp.Diff([]string{"a", "b", "d"}, names(table)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestFullTableKeepsAcquiredNamesLongest(t *testing.T) {
	table := NewTable(3)
	table.Seen(acquired("acquired1"))
	table.Seen(Query{Name: "acquired2"})
	table.Seen(acquired("acquired2")) // as of now
	for _, step := range []struct {
		query Query
		want  []string
	}{
		{Query{Name: "passed1"}, []string{"acquired1", "acquired2", "passed1"}},
		{Query{Name: "passed2"}, []string{"acquired1", "acquired2", "passed2"}},
		{acquired("acquired3"), []string{"acquired1", "acquired2", "acquired3"}},
		{Query{Name: "passed3"}, []string{"acquired2", "acquired3", "passed3"}},
		{Query{Name: "acquired3"}, []string{"acquired2", "acquired3", "passed3"}}, // no more
		{Query{Name: "passed4"}, []string{"acquired2", "acquired3", "passed4"}},
		{Query{Name: "passed5"}, []string{"acquired2", "passed4", "passed5"}},
	} {
		table.Seen(step.query)
		if diff := cmp.Diff(step.want, names(table)); diff != "" {
			t.Errorf("names after %s (-want +got):\n%s", step.query.Name, diff)
		}
	}
}

func TestSnapshotIsNotChangedByLaterQueries(t *testing.T) {
	table := NewTable(0)
	table.Seen(acquired("n"))
	before := table.Snapshot()
	table.Seen(Query{Name: "n", Acquired: true, Synthetic: [2]netip.Addr{original, original}})
	if want := []netip.Addr{synthetic4, synthetic6}; !cmp.Equal(before[0].Synthetic, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("synthetic addresses became %v, want %v", before[0].Synthetic, want)
	}
}

func TestTableIsUsedConcurrently(t *testing.T) {
	const askers, queries, size = 8, 2000, 64
	table := NewTable(size)
	var group sync.WaitGroup
	for asker := range askers {
		group.Go(func() {
			for i := range queries {
				name := fmt.Sprintf("n%d.example", i%100)
				table.Seen(Query{Name: name, Acquired: (i+asker)%3 == 0})
				table.Flow(name)
				table.Learned(name, original)
			}
		})
	}
	group.Go(func() {
		for range 100 {
			if n := len(table.Snapshot()); n > size {
				t.Errorf("the table holds %d names, want at most %d", n, size)
			}
		}
	})
	group.Wait()
	if n := len(names(table)); n != size {
		t.Errorf("the table holds %d names, want %d", n, size)
	}
	if got := table.passed.Len() + table.taken.Len(); got != size {
		t.Errorf("the lists hold %d names, want %d", got, size)
	}
}

func TestHostnameAsJSON(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name     string
		hostname Hostname
		want     string
	}{
		{
			"passed", Hostname{Name: "n", Queries: 1, Rcode: 3, First: at, Last: at},
			`{"name":"n","acquired":false,"pid":0,"uid":0,"queries":1,"flows":0,"rcode":3,` +
				`"first":"2030-01-02T03:04:05Z","last":"2030-01-02T03:04:05Z"}`,
		},
		{
			"acquired",
			Hostname{
				Name: "n", Synthetic: []netip.Addr{synthetic4, synthetic6}, Original: original, Acquired: true, Rule: "r",
				Channel: "c", PID: 1, UID: 2, Command: "ssh", Queries: 3, Flows: 4, First: at, Last: at,
			},
			`{"name":"n","synthetic":["6.6.0.1","fd00:6::1"],"original":"192.0.2.7","acquired":true,"rule":"r",` +
				`"channel":"c","pid":1,"uid":2,"command":"ssh","queries":3,"flows":4,"rcode":0,` +
				`"first":"2030-01-02T03:04:05Z","last":"2030-01-02T03:04:05Z"}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := json.Marshal(test.hostname)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(text)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func BenchmarkSeen(b *testing.B) {
	for _, bench := range []struct {
		name  string
		names int
	}{{"known", DefaultSize}, {"twice as many as fit", 2 * DefaultSize}} {
		b.Run(bench.name, func(b *testing.B) {
			table := NewTable(0)
			queries := make([]Query, bench.names)
			for i := range queries {
				queries[i] = acquired(fmt.Sprintf("host%d.corp.example", i))
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					table.Seen(queries[i%len(queries)])
				}
			})
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	table := NewTable(0)
	for i := range DefaultSize {
		table.Seen(acquired(fmt.Sprintf("host%d.corp.example", i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		table.Snapshot()
	}
}
