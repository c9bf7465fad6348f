package rules

import (
	"strings"
	"testing"
)

type rule struct {
	name  string
	check func(source) []finding
}

func rules() []rule {
	return []rule{
		{"imports run one way", checkDirection},
		{"the BPF library is in bpf, maps and loader", checkBPFLibrary},
		{"packages are named by nouns", checkPackageName},
		{"types are named by nouns", checkTypeNames},
		{"only cmd ends the process", checkExits},
		{"no globals, no init", checkGlobals},
		{"error texts are bare", checkErrorTexts},
		{"byte order has one home", checkByteOrder},
		{"BPF objects are bound by generated code", checkTags},
		{"tests never sleep", checkSleeps},
		{"exported names are documented", checkDocs},
	}
}

func TestRulesHold(t *testing.T) {
	sources := tree(t)
	for _, rule := range rules() {
		t.Run(rule.name, func(t *testing.T) {
			for _, s := range sources {
				for _, found := range rule.check(s) {
					t.Error(found)
				}
			}
		})
	}
	t.Run("packages are introduced", func(t *testing.T) {
		for _, found := range checkPackageDocs(sources) {
			t.Error(found)
		}
	})
}

// TestBreachesAreFound runs small sources through all rules. Each breaks one
// rule once or, where want is empty, none: not even by what comes closest.
func TestBreachesAreFound(t *testing.T) {
	for _, test := range breaches() {
		t.Run(test.name, func(t *testing.T) {
			text := test.text
			if !strings.HasPrefix(text, "//") {
				text = "package " + text
			}
			s, err := parse(test.path, text)
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, rule := range rules() {
				for _, f := range rule.check(s) {
					found = append(found, rule.name+": "+f.text)
				}
			}
			switch {
			case test.want == "" && len(found) > 0:
				t.Errorf("found %q in a clean source", found)
			case test.want != "" && (len(found) != 1 || !strings.HasPrefix(found[0], test.want)):
				t.Errorf("found %q, want one that starts with %q", found, test.want)
			}
		})
	}
}

func TestPackagesWithoutIntroductionAreFound(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       int
	}{
		{"introduced", "// Package relay copies.\npackage relay", 0},
		{"not introduced", "package relay", 1},
		{"introduced as another", "// Package relays copies.\npackage relay", 1},
		{"command", "// Bpfacq acquires flows.\npackage main", 0},
		{"command, not introduced", "package main", 1},
	} {
		s, err := parse("userspace/relay/relay.go", test.text)
		if err != nil {
			t.Fatal(err)
		}
		if found := checkPackageDocs([]source{s}); len(found) != test.want {
			t.Errorf("%s: found %v, want %d", test.name, found, test.want)
		}
	}
}
