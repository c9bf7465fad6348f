package matrix

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one of go tool test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// test is a test of a package, or the package as a whole if it has no name.
type test struct {
	pack, name string
}

func (t test) String() string { return strings.TrimSpace(t.pack + " " + t.name) }

// root is the test of which t is a part.
func (t test) root() test {
	t.name, _, _ = strings.Cut(t.name, "/")
	return t
}

func compareTests(a, b test) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.name, b.name))
}

// Actions that end a test, and one for a test that never ended.
const (
	passed   = "pass"
	failed   = "fail"
	skipped  = "skip"
	unending = "run"
)

// tally counts how tests end. It reads events of go tool test2json, a line each,
// and shows what go test would: a line for each test, and everything that a
// failed one has said.
type tally struct {
	show    io.Writer
	ends    map[test]string
	reasons map[test]string   // of skipped tests
	said    map[test][]string // by root
	last    map[test]string   // what a test said
}

func newTally(show io.Writer) *tally {
	return &tally{
		show: show, ends: make(map[test]string), reasons: make(map[test]string),
		said: make(map[test][]string), last: make(map[test]string),
	}
}

func (t *tally) take(line []byte) error {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		_, err := fmt.Fprintf(t.show, "%s\n", line)
		return err
	}
	id := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		t.hear(id, e.Output)
	case passed, failed, skipped, unending:
		t.end(id, e)
	}
	return nil
}

// frame begins a line that tells what test2json makes events of.
var frame = regexp.MustCompile(`^\s*(?:=== |--- )`)

// place is where in the source a test has said something.
var place = regexp.MustCompile(`^\s*[\w./-]+\.go:[0-9]+: `)

func (t *tally) hear(id test, text string) {
	if strings.HasPrefix(text, "=== ") {
		return
	}
	t.said[id.root()] = append(t.said[id.root()], text)
	if !frame.MatchString(text) {
		t.last[id] = strings.TrimSpace(place.ReplaceAllString(text, ""))
	}
}

func (t *tally) end(id test, e event) {
	t.ends[id] = e.Action
	if e.Action == skipped {
		t.reasons[id] = t.last[id]
	}
	if e.Action == unending || id != id.root() {
		return
	}
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch {
	case e.Action == failed && id.name != "":
		fmt.Fprintf(t.show, "%s--- FAIL: %s (%s)\n", strings.Join(t.said[id], ""), id, took)
	case e.Action == failed:
		fmt.Fprintf(t.show, "%sFAIL %s (%s)\n", strings.Join(t.said[id], ""), id, took)
	case e.Action == skipped && id.name != "":
		fmt.Fprintf(t.show, "--- SKIP: %s (%s) %s\n", id, took, t.reasons[id])
	case id.name != "":
		fmt.Fprintf(t.show, "--- PASS: %s (%s)\n", id, took)
	default:
		fmt.Fprintf(t.show, "%s %s (%s)\n", map[string]string{passed: "ok", skipped: "?"}[e.Action], id, took)
	}
	delete(t.said, id)
}

// count returns how many tests ended so. Packages are not tests.
func (t *tally) count(end string) int {
	n := 0
	for id, is := range t.ends {
		if id.name != "" && is == end {
			n++
		}
	}
	return n
}

// ended returns the tests that ended so, in order.
func (t *tally) ended(end string) []test {
	var all []test
	for _, id := range slices.SortedFunc(maps.Keys(t.ends), compareTests) {
		if id.name != "" && t.ends[id] == end {
			all = append(all, id)
		}
	}
	return all
}
