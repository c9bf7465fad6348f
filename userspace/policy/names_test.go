package policy_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestCanonicalNames(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := strings.Join([]string{label, label, label, label[:61]}, ".") // 253 characters, 255 octets
	for _, test := range []struct{ name, want string }{
		{"example.com", "example.com"},
		{"Example.COM.", "example.com"},
		{"_ldap._TCP.example", "_ldap._tcp.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", `b\195\156cher.example`},
		{"b\xfccher.example", `b\252cher.example`},
		{`b\252cher.example`, `b\252cher.example`},
		{`a\.b.example`, `a\046b.example`},
		{`a\046b.example.`, `a\046b.example`},
		{`a\\b`, `a\092b`},
		{`\065\090\097`, "aza"},
		{`\@\!\*`, "@!*"},
		{"a b\n", `a\032b\010`},
		{"*.example", "*.example"},
		{"1.2.3.4", "1.2.3.4"},
		{longest, longest},
		{strings.ToUpper(longest) + ".", longest},
		{strings.Repeat(`\000`, 63), strings.Repeat(`\000`, 63)},

		{"", ""},
		{".", ""},
		{"..", ""},
		{".a", ""},
		{"a..b", ""},
		{"a..", ""},
		{"A..b", ""},
		{label + "a", ""},
		{label + "A", ""},
		{longest + "a", ""},
		{longest + "A", ""},
		{strings.Repeat(`\000`, 64), ""},
		{`a\`, ""},
		{`a\1`, ""},
		{`a\12`, ""},
		{`a\12x`, ""},
		{`a\256`, ""},
	} {
		got, ok := policy.CanonicalName(test.name)
		if ok != (test.want != "") || ok && got != test.want {
			t.Errorf("CanonicalName(%q) = %q, %t, want %q", test.name, got, ok, test.want)
		}
		if again, _ := policy.CanonicalName(got); ok && again != got {
			t.Errorf("CanonicalName(%q) = %q, want it to be stable", got, again)
		}
	}
}

func FuzzCanonicalName(f *testing.F) {
	for _, name := range []string{"Example.com.", `a\.b\046\\c`, "\xff.b", "a..b", `\`, strings.Repeat("a.", 127)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, ok := policy.CanonicalName(name)
		if !ok {
			return
		}
		if again, ok := policy.CanonicalName(got); !ok || again != got {
			t.Errorf("CanonicalName(%q) = %q, whose own is %q, %t", name, got, again, ok)
		}
		dots := strings.Count(got, ".")
		for label := range strings.SplitSeq(got, ".") {
			if label == "" || len(label) > 4*63 || len(got) > 4*255 || dots > 126 {
				t.Fatalf("CanonicalName(%q) = %q", name, got)
			}
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' || 'A' <= r && r <= 'Z' }) {
			t.Errorf("CanonicalName(%q) = %q", name, got)
		}
	})
}

// naive returns the regular expression that a pattern stands for.
func naive(t *testing.T, source string) *regexp.Regexp {
	t.Helper()
	re, err := regexp.Compile("(?i)^(?:" + source + ")$")
	if err != nil {
		t.Fatal(err)
	}
	return re
}

func TestPatternsArePlainWhereTheyCanBe(t *testing.T) {
	for _, test := range []struct {
		source string
		plain  bool
	}{
		{`www\.example\.com`, true},
		{`^www\.EXAMPLE\.com$`, true},
		{`(?i)example`, true},
		{`.+\.corp\.example`, true},
		{`^.*\.corp\.example$`, true},
		{`(.+\.)?corp\.example`, true},
		{`(?:.*\.)?corp\.example`, true},
		{`(^|.+\.)corp\.example`, true},
		{`[^.]+\.corp\.example`, true},
		{`[^\.]+\.corp\.example`, true},
		{`(a|b\.c|d?)\.example`, false}, // d? may be nothing, which leaves no name
		{`(a|b\.c)\.example`, true},
		{`_ldap\._tcp\.example`, true},
		{`.+`, true},
		{`.*`, true},
		{`[^.]+`, true},
		{``, false},
		{`.+corp\.example`, false},
		{`.+\.example\..+`, false},
		{`srv[0-9]+\.example`, false},
		{`srv[0-9]\.example`, true},
		{`[a-z]\.example`, false}, // more than is worth it
		{`[^.]*\.example`, false},
		{`www.example`, false}, // the dot is any character
		{`a{3}\.example`, false},
		{`(?-i)Example`, false},
		{`bücher\.example`, false},
		{`a\.\.b`, false},
		{`a$b`, false},
		{`\Qa.b\E\.example`, true},
		{strings.Repeat("(a|b)", 4) + `\.example`, true},
		{strings.Repeat("(a|b)", 5) + `\.example`, false},
	} {
		pattern, err := policy.ParseNamePattern(test.source)
		if err != nil {
			t.Fatal(err)
		}
		if plain := pattern.Instructions() == 0; plain != test.plain {
			t.Errorf("%s: plain %t, want %t", test.source, plain, test.plain)
		}
		// Kelvin sign and long s fold to ASCII letters, but are not in a name.
		for _, name := range []string{
			"example", "example.com", "www.example.com", "corp.example", "xcorp.example", "a.corp.example", "A.b.CORP.example.",
			"a.example", "b.c.example", "d.example", "_ldap._tcp.example", "srv1.example", "wwwxexample", "aaa.example", "abab.example",
			`x\.corp.example`, "bücher.example", `b\195\188cher.example`, "\u212a", "a..b", "a$b", "ab", "",
		} {
			canonical, ok := policy.CanonicalName(name)
			want := ok && naive(t, test.source).MatchString(canonical)
			if got := pattern.Match(name); got != want {
				t.Errorf("%s matches %q: %t, want %t", test.source, name, got, want)
			}
		}
	}
	if (policy.NamePattern{}).Match("a") {
		t.Error("the zero pattern matches")
	}
	for _, source := range []string{`a(`, `a)(b`, `\Qa`, `[`} {
		if _, err := policy.ParseNamePattern(source); err == nil {
			t.Errorf("malformed pattern %s has no error", source)
		}
	}
}

func TestLabelWithADotIsNotTwoLabels(t *testing.T) {
	p := &policy.Policy{Rules: []policy.Rule{
		named(tunnel("below", 0), `.+\.corp\.example`), named(tunnel("exact", 1), `a\.corp\.example`),
		named(tunnel("other", 2), `.+p\.example`),
	}}
	n := policy.NewNames(p)
	if diff := cmp.Diff([]int{2}, n.Rules(`a\.corp.example`)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{0, 1, 2}, n.Rules("a.corp.example")); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestNamesAgreeWithRegularExpressions(t *testing.T) {
	policies := testutil.Rounds(400)
	hits, misses := 0, 0
	for seed := range uint64(policies) {
		h, m := checkNames(t, seed)
		hits, misses = hits+h, misses+m
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if hits < policies*10 || misses < policies*10 {
		t.Errorf("%d rules match and %d do not: too few to mean anything", hits, misses)
	}
}

func FuzzNamesAgreeWithRegularExpressions(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkNames(t, seed) })
}

// FuzzPatternAgreesWithRegularExpression takes any pattern, and any name.
func FuzzPatternAgreesWithRegularExpression(f *testing.F) {
	for _, source := range []string{`.+\.a\.example`, `(a|(b\.)?)c`, `^(|.+\.)a$`, `a{0}b`, `[^.]+`, `(?s).*\.a`, `(?m)^a$`, `a|b.*\.c\..d`} {
		f.Add(source, "b.A.example.")
		f.Add(source, "c")
		f.Add(`\Q`+source, "c")
	}
	f.Fuzz(func(t *testing.T, source, name string) {
		if len(source) > 200 || len(name) > 300 {
			return
		}
		pattern, err := policy.ParseNamePattern(source)
		if err != nil {
			return
		}
		p := &policy.Policy{Rules: []policy.Rule{
			named(tunnel("other", 0), `[a-z]+\.example`), {Names: []policy.NamePattern{pattern}}, named(tunnel("more", 2), `.+\.a`),
		}}
		canonical, ok := policy.CanonicalName(name)
		want := ok && naive(t, source).MatchString(canonical)
		if got := pattern.Match(name); got != want {
			t.Errorf("%q matches %q: %t, want %t", source, name, got, want)
		}
		_, protected := p.ProtectedName(name)
		if got := slices.Contains(policy.NewNames(p).Rules(name), 1); got != (want && !protected) {
			t.Errorf("%q among others matches %q: %t, want %t", source, name, got, want)
		}
	})
}

// checkNames compares the matcher of a random policy with its patterns, one by
// one and as package regexp understands them.
func checkNames(t *testing.T, seed uint64) (hits, misses int) {
	r := rand.New(rand.NewPCG(seed, 7))
	p := testutil.RandomPolicy(r)
	testutil.AddNames(r, p)
	n := policy.NewNames(p)
	for range 24 {
		name := testutil.RandomName(r)
		canonical, ok := policy.CanonicalName(name)
		_, protected := p.ProtectedName(name)
		var want []int
		for i, rule := range p.Rules {
			match := slices.ContainsFunc(rule.Names, func(pattern policy.NamePattern) bool {
				return naive(t, pattern.Source).MatchString(canonical)
			})
			switch {
			case ok && match && !protected:
				want = append(want, i)
				hits++
			default:
				misses++
			}
			for _, pattern := range rule.Names {
				if got, want := pattern.Match(name), ok && naive(t, pattern.Source).MatchString(canonical); got != want {
					t.Errorf("%s matches %q: %t, want %t", pattern.Source, name, got, want)
				}
			}
		}
		if got := n.Rules(name); !slices.Equal(got, want) {
			t.Errorf("Rules(%q) = %v, want %v", name, got, want)
		}
	}
	return hits, misses
}

func TestEdgesAndLocalNamesAreNeverAcquired(t *testing.T) {
	p := &policy.Policy{
		Channels: []policy.Channel{{
			Primary:   []policy.Edge{{Host: "Edge.corp.example"}, {Host: "192.0.2.1"}},
			Secondary: []policy.Edge{{Host: "spare.example."}},
		}},
		Rules: []policy.Rule{named(tunnel("all", 0), `.+`)},
	}
	n := policy.NewNames(p)
	for name, reason := range map[string]string{
		"edge.corp.example":           "edge",
		"EDGE.corp.example.":          "edge",
		"spare.example":               "edge",
		"localhost":                   "loopback",
		"a.LocalHost.":                "loopback",
		"metadata.google.internal":    "metadata service (Google Cloud)",
		"instance-data.ec2.internal.": "metadata service (AWS)",
		"a.edge.corp.example":         "",
		"corp.example":                "",
		"xlocalhost":                  "",
		"localhost.example":           "",
	} {
		got, ok := p.ProtectedName(name)
		if got != reason || ok != (reason != "") {
			t.Errorf("ProtectedName(%q) = %q, %t, want %q", name, got, ok, reason)
		}
		if rules := n.Rules(name); (len(rules) == 0) != (reason != "") {
			t.Errorf("Rules(%q) = %v", name, rules)
		}
	}
	if got, ok := p.ProtectedName("a..b"); ok {
		t.Errorf("ProtectedName of no name = %q", got)
	}
	if rules := n.Rules("a..b"); rules != nil {
		t.Errorf("Rules of no name = %v", rules)
	}
}

// manyNames returns rules with n patterns in all, of the shapes that profiles
// have: four in ten exact, five below a suffix, and the rest of other shapes, of
// which a hundredth of n need a regular expression.
func manyNames(tb testing.TB, n, rules int) *policy.Policy {
	tb.Helper()
	p := &policy.Policy{}
	for i := range rules {
		p.Rules = append(p.Rules, tunnel(fmt.Sprintf("rule-%d", i), float64(i)))
	}
	for i := range n {
		site := fmt.Sprintf(`site%d\.dept%d\.corp\.example`, i, i%100)
		var source string
		switch {
		case i%100 == 99:
			source = `srv[0-9]+\.` + site
		case i%10 == 9:
			source = `[^.]+\.` + site
		case i%10 == 8:
			source = `(.+\.)?` + site
		case i%2 == 0:
			source = `host\.` + site
		default:
			source = `.+\.` + site
		}
		pattern, err := policy.ParseNamePattern(source)
		if err != nil {
			tb.Fatal(err)
		}
		rule := &p.Rules[i%rules]
		rule.Names = append(rule.Names, pattern)
	}
	return p
}

func TestManyNamesAreFound(t *testing.T) {
	const n, rules = 100_000, 500
	names := policy.NewNames(manyNames(t, n, rules))
	for i := range n {
		site := fmt.Sprintf("site%d.dept%d.corp.example", i, i%100)
		name := "host." + site
		if i%100 == 99 {
			name = "srv12." + site
		}
		if got := names.Rules(name); !slices.Equal(got, []int{i % rules}) {
			t.Fatalf("Rules(%q) = %v, want rule %d", name, got, i%rules)
		}
		if got := names.Rules("x" + site); len(got) > 0 {
			t.Fatalf("Rules(%q) = %v, want none", "x"+site, got)
		}
	}
}
