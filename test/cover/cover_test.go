package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const source = `package p

func called() error {
	if err := first(); err != nil {
		return err
	}
	if err := second(); err != nil {
		return err
	}
	if other() {
		return nil
	}
	return nil
}

func missed() {
	called()
}
`

const head = "mode: set\n"

// Of called, all but the second error and the branch that is about none.
const one = head + `github.com/bpfacq/bpfacq/p/p.go:3.21,4.35 2 1
github.com/bpfacq/bpfacq/p/p.go:4.35,6.3 1 0
github.com/bpfacq/bpfacq/p/p.go:7.2,7.36 1 1
github.com/bpfacq/bpfacq/p/p.go:7.36,9.3 1 0
github.com/bpfacq/bpfacq/p/p.go:10.2,10.13 1 1
github.com/bpfacq/bpfacq/p/p.go:10.13,12.3 1 0
github.com/bpfacq/bpfacq/p/p.go:13.2,13.12 1 1
github.com/bpfacq/bpfacq/p/p.go:16.15,18.2 1 0
`

const other = head + "github.com/bpfacq/bpfacq/p/p.go:4.35,6.3 1 7\n"

func read(t *testing.T, texts ...string) profile {
	t.Helper()
	p := make(profile)
	for _, text := range texts {
		if err := p.add(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestWhatAnyProfileReachedIsReached(t *testing.T) {
	for _, test := range []struct {
		name  string
		texts []string
		want  string
	}{
		{"one", []string{one}, "PACKAGE  REACHED  STATEMENTS\np         55.6 %  9\nall       55.6 %  9\n"},
		{"one and another", []string{one, other}, "PACKAGE  REACHED  STATEMENTS\np         66.7 %  9\nall       66.7 %  9\n"},
		{"another and one", []string{other, one}, "PACKAGE  REACHED  STATEMENTS\np         66.7 %  9\nall       66.7 %  9\n"},
	} {
		var table strings.Builder
		read(t, test.texts...).printTable(&table)
		if diff := cmp.Diff(test.want, table.String()); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
	}
}

func TestFunctionsAndErrorPathsThatWereNotReachedAreNamed(t *testing.T) {
	got, err := findGaps("p.go", []byte(source), read(t, one, other)["p/p.go"])
	if err != nil {
		t.Fatal(err)
	}
	want := []gap{{7, "if err := second(); err != nil"}, {16, "func missed()"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(gap{})); diff != "" {
		t.Error(diff)
	}
}

func TestProfileOfAnotherFormIsRefused(t *testing.T) {
	if err := make(profile).add(strings.NewReader(head + "p.go:3\n")); err == nil || !strings.Contains(err.Error(), `"p.go:3"`) {
		t.Errorf("got %v, want the line that is wrong", err)
	}
}
