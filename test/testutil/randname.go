package testutil

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// AddNames gives most rules of p patterns for names, of every shape and meant to
// meet: exact names, suffixes inside one another, labels, and what only a
// regular expression can say. Now and then rules also match by the original
// address, and there are two pools, or one, or hardly ever none.
//
// It is a function of r and p alone.
func AddNames(r *rand.Rand, p *policy.Policy) {
	for i := range p.Rules {
		p.Rules[i].Names = nil
		for range r.IntN(4) {
			p.Rules[i].Names = append(p.Rules[i].Names, patterns(randomPattern(r))...)
		}
	}
	p.AlsoMatchOriginal = r.IntN(3) == 0
	p.Pools = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/24"), netip.MustParsePrefix("fd00:6::/64")}[:min(2, r.IntN(12))]
	p.Channels[0].Primary = []policy.Edge{{Host: "edge.a.example", Port: 443, Secure: true}}
}

// RandomNameFlow returns a flow to a name that AddNames has patterns for, or to
// one beside those. Its address is an original one near a border, as of
// [RandomFlow], or one of a pool, or none.
//
// It is a function of r and p alone.
func RandomNameFlow(r *rand.Rand, p *policy.Policy) policy.Flow {
	f := RandomFlow(r, p)
	f.Name = RandomName(r)
	switch r.IntN(8) {
	case 0:
		if len(p.Pools) > 0 {
			f.Addr = pick(r, p.Pools).Addr().Next()
		}
	case 1, 2:
		f.Addr = netip.Addr{}
	}
	return f
}

// RandomName returns a host name of few labels that come from a short list, in
// one of the forms that names come in. It is a function of r alone.
func RandomName(r *rand.Rand) string {
	name := pick(r, topLabels())
	for range r.IntN(4) {
		name = pick(r, labels()) + "." + name
	}
	switch r.IntN(8) {
	case 0:
		return name + "."
	case 1:
		return upper(r, name)
	case 2:
		return "edge.a.example"
	}
	return name
}

func topLabels() []string { return []string{"example", "example", "test", "localhost"} }

func labels() []string {
	return []string{"a", "a", "b", "b", "www", "srv1", "srv22", "_tcp", "x-y", `a\.b`, `\195\188`, "*"}
}

// upper returns name with some letters in upper case.
func upper(r *rand.Rand, name string) string {
	text := []byte(name)
	for i, c := range text {
		if 'a' <= c && c <= 'z' && r.IntN(2) == 0 {
			text[i] -= 'a' - 'A'
		}
	}
	return string(text)
}

// randomPattern returns a regular expression over names like those of
// RandomName.
func randomPattern(r *rand.Rand) string {
	dotted := pick(r, topLabels())
	for range r.IntN(3) {
		dotted = pick(r, []string{"a", "b", "www", "srv1", "_tcp"}) + `\.` + dotted
	}
	return pick(r, []string{
		dotted, `^` + dotted + `$`, `(?i)` + dotted, // exact
		`.+\.` + dotted, `.*\.` + dotted, `^.+\.` + dotted + `$`, // below
		`(.+\.)?` + dotted, `(?:.*\.)?` + dotted, `(^|.+\.)` + dotted + `$`, // at and below
		`[^.]+\.` + dotted, `([^.]+\.)?` + dotted, // one label
		`(a|b|www)\.` + dotted, `(www\.)?(a|b)?\.?` + dotted, // a few
		`srv\d+\.` + dotted, `[a-w]+\.` + dotted, `(?<host>[a-z]+)\d*\.` + dotted, // a suffix and more
		`.+\.` + dotted + `\..+`, dotted + `\..+`, `.+\.` + dotted + `\d?`, // a label and more
		`.*` + dotted, `.*a.*`, `[^e]+`, // anything
		`.+`, `.*`, `[^.]+`,
	})
}

// patterns parses regular expressions that are known to be well formed.
func patterns(sources ...string) []policy.NamePattern {
	parsed := make([]policy.NamePattern, len(sources))
	for i, source := range sources {
		var err error
		if parsed[i], err = policy.ParseNamePattern(source); err != nil {
			return nil
		}
	}
	return slices.Clip(parsed)
}
