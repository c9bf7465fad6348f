package profile

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestSampleAcquiresTheDiagnosticHostAndSparesItsOwn(t *testing.T) {
	p := mustParse(t, sample(t)).Policy
	p.Pools = []netip.Prefix{p.Settings.SyntheticPool}
	if err := policy.CheckPool(p, p.Pools[0]); err != nil {
		t.Error(err)
	}
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	names := policy.NewNames(p)
	const host = ".globalsecureaccess.microsoft.com"
	for _, test := range []struct {
		name     string
		rules    []int
		acquired bool
		tcp      policy.Decision
	}{
		{"private.edgediagnostic" + host, []int{1}, true, policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule, Rule: 1, Protection: -1}},
		{"Private.EdgeDiagnostic" + host + ".", []int{1}, true, policy.Decision{Verdict: policy.VerdictAcquire, Reason: policy.ReasonRule, Rule: 1, Protection: -1}},
		{"tenant.private.client" + host, []int{0}, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonRule, Protection: -1}},
		{"a.client" + host + ".edge.example", []int{0}, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonRule, Protection: -1}},
		{"aps" + host, []int{0}, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonRule, Protection: -1}},
		{"client" + host, nil, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNoMatch, Rule: -1, Protection: -1}},
		{"x.private.edgediagnostic" + host, nil, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNoMatch, Rule: -1, Protection: -1}},
		{p.Channels[0].Primary[0].Host, nil, false, policy.Decision{Verdict: policy.VerdictPass, Reason: policy.ReasonNeverAcquired, Rule: -1, Protection: -1}},
	} {
		rules := names.Rules(test.name)
		diff(t, rules, test.rules)
		_, acquired := compiled.Acquires(compiled.NameRow(rules, netip.Addr{}))
		diff(t, acquired, test.acquired)
		got := p.MatchName(policy.Flow{Protocol: policy.TCP, Name: test.name, Port: 443})
		diff(t, got, policy.NameDecision{Acquired: test.acquired, ByName: test.acquired, Decision: test.tcp})
	}
}

// manyPatterns is the valid profile with n patterns for names, of shapes that
// are plain.
func manyPatterns(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%shost%d\\.dept%d\\.corp\\.example"`, []string{"", `.+\\.`, `(.*\\.)?`, `[^.]+\\.`}[i%4], i, i%100)
	}
	return strings.Replace(valid, pattern, b.String(), 1)
}

func TestManyPatternsAreAcceptedInBoundedMemory(t *testing.T) {
	const n = 100_000
	text := manyPatterns(n)
	before := heap()
	p := mustParse(t, text)
	diff(t, len(p.Policy.Rules[0].Names), n)
	names := policy.NewNames(p.Policy)
	if kept := (heap() - before) >> 20; kept > 100 {
		t.Errorf("%d MiB are kept for %d patterns", kept, n)
	}
	diff(t, names.Rules("a.host99999.dept99.corp.example"), []int{0})
	diff(t, names.Rules("a.b.host99999.dept99.corp.example"), []int(nil))
	runtime.KeepAlive(p)
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMorePatternsThanTheLimitAreRejected(t *testing.T) {
	d := &document{text: []byte(`["a", "b", ".+"]`), patterns: patternBudget{count: maxPatterns - 1}}
	diff(t, len(names(d.root())), 1)
	want := "at most 250000 regular expressions, and 200000 instructions in all that are neither a name nor a suffix"
	diff(t, d.problems, []Problem{
		{Pointer: "/1", Value: `"b"`, Want: want, Offset: 6},
		{Pointer: "/2", Value: `".+"`, Want: want, Offset: 11},
	})
}

func TestMorePrivateRulesThanTheLimitAreRejected(t *testing.T) {
	var b strings.Builder
	for i := range maxPrivateRules + 2 {
		fmt.Fprintf(&b, `, {"suffix": "s%d.example", "dnsServerAddress": "192.0.2.9"}`, i)
	}
	got := problems(t, mutate(t, privateRule, privateRule+b.String()))
	diff(t, len(got), 1)
	diff(t, got[0].Pointer, "/policy/privateDnsRules/10000")
	diff(t, got[0].Want, "at most 10000 private DNS rules")
}
