package policy_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// manyPrograms returns one rule with as many patterns as the profile's budget
// of instructions allows, each made by pattern from its number.
func manyPrograms(tb testing.TB, pattern func(i int) string) *policy.Policy {
	tb.Helper()
	const budget = 200_000
	rule := tunnel("programs", 0)
	for used, i := 0, 0; ; i++ {
		n, err := policy.ParseNamePattern(pattern(i))
		if err != nil {
			tb.Fatal(err)
		}
		if used += n.Instructions(); used > budget {
			return &policy.Policy{Rules: []policy.Rule{rule}}
		}
		rule.Names = append(rule.Names, n)
	}
}

func BenchmarkNames(b *testing.B) {
	label := strings.Repeat("a", 63)
	longest := strings.Join([]string{label, label, label, label[:61]}, ".")
	deepest := strings.Repeat("a.", 126) + "a"
	mixed := manyNames(b, 100_000, 500)
	deep := manyNames(b, 100_000, 500)
	deep.Rules = append(deep.Rules, named(tunnel("deep", 1), `b\.`+strings.Repeat(`a\.`, 120)+`a`))
	for _, bench := range []struct {
		shape  string
		policy *policy.Policy
		name   string
	}{
		{"100k/exact", mixed, "host.site4240.dept40.corp.example"},
		{"100k/below", mixed, "a.b.site4241.dept41.corp.example"},
		{"100k/regexp", mixed, "srv12.site4299.dept99.corp.example"},
		{"100k/miss", mixed, "www.example.net"},
		{"100k/upper-case", mixed, "Host.Site4240.Dept40.Corp.Example."},
		{"100k/longest", mixed, longest},
		{"100k/deepest", mixed, deepest},
		{"100k/deepest-and-deep-pattern", deep, deepest},
		{"hostile/one-suffix", manyPrograms(b, func(i int) string { return fmt.Sprintf(`srv%d-[0-9]+\.corp\.example`, i) }), "srv77-9.corp.example"},
		{"hostile/no-suffix", manyPrograms(b, func(i int) string { return fmt.Sprintf(`.*a.*%d[b-z]+.*`, i) }), longest},
		{"hostile/counted", manyPrograms(b, func(i int) string { return fmt.Sprintf(`(.?a){200}%d[b-z]+`, i) }), longest},
	} {
		b.Run(bench.shape, func(b *testing.B) {
			n := policy.NewNames(bench.policy)
			b.ReportAllocs()
			for b.Loop() {
				n.Rules(bench.name)
			}
		})
	}
}

func BenchmarkNameRow(b *testing.B) {
	p := manyNames(b, 100_000, 500)
	also := vendorLimitsOwnPorts()
	also.AlsoMatchOriginal = true
	for _, bench := range []struct {
		shape  string
		policy *policy.Policy
		rules  []int
	}{
		{"500-rules", p, []int{240}},
		{"vendor-limits-own-ports", vendorLimitsOwnPorts(), []int{1, 240, 900}},
		{"vendor-limits-own-ports-also-original", also, []int{1, 240, 900}},
	} {
		b.Run(bench.shape, func(b *testing.B) {
			c := mustCompile(b, bench.policy)
			b.ReportAllocs()
			for b.Loop() {
				c.Acquires(c.NameRow(bench.rules, ipv4(10<<24)))
			}
		})
	}
}

func BenchmarkNewNames(b *testing.B) {
	for _, bench := range []struct {
		shape string
		parse func() *policy.Policy
	}{
		{"100k", func() *policy.Policy { return manyNames(b, 100_000, 500) }},
		{"programs", func() *policy.Policy {
			return manyPrograms(b, func(i int) string { return fmt.Sprintf(`srv%d-[0-9]+\.corp\.example`, i) })
		}},
	} {
		p := bench.parse()
		b.Run(bench.shape+"/parse", func(b *testing.B) {
			b.ReportAllocs()
			var kept *policy.Policy
			before := heap()
			for b.Loop() {
				kept = bench.parse()
			}
			b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-kept")
			runtime.KeepAlive(kept)
		})
		b.Run(bench.shape+"/build", func(b *testing.B) {
			b.ReportAllocs()
			var kept *policy.Names
			before := heap()
			for b.Loop() {
				kept = policy.NewNames(p)
			}
			b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-kept")
			runtime.KeepAlive(kept)
		})
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
