package loader

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// ladderTable is the table below the heading "Feature ladder" of ARCHITECTURE.md.
type ladderTable struct {
	kernels  []series
	features []string            // ids in order
	cells    map[string][]string // by id: one for each kernel, with it, without it
}

// readLadder finds the first table whose header starts with a cell "feature".
func readLadder(t *testing.T, text string) ladderTable {
	t.Helper()
	table := ladderTable{cells: make(map[string][]string)}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 5 {
			if table.kernels != nil {
				return table
			}
			continue
		}
		cells = cells[1 : len(cells)-1]
		for i, cell := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cell), "`")
		}
		switch {
		case cells[0] == "feature":
			for _, kernel := range cells[1 : len(cells)-2] {
				s, ok := parseSeries(kernel)
				if !ok || s.String() != kernel {
					t.Fatalf("column %q is not a series", kernel)
				}
				table.kernels = append(table.kernels, s)
			}
		case table.kernels == nil || strings.HasPrefix(cells[0], "-"):
		case len(cells) != len(table.kernels)+3:
			t.Fatalf("row %q has %d cells, want %d", line, len(cells), len(table.kernels)+3)
		default:
			table.features = append(table.features, cells[0])
			table.cells[cells[0]] = cells[1:]
		}
	}
	return table
}

func architecture(t *testing.T) ladderTable {
	t.Helper()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	table := readLadder(t, string(text))
	if len(table.kernels) == 0 || len(table.features) == 0 {
		t.Fatal("ARCHITECTURE.md has no ladder")
	}
	return table
}

func TestLadderIsDocumented(t *testing.T) {
	table := architecture(t)
	var ids []string
	for _, r := range ladder() {
		ids = append(ids, r.id)
		cells := table.cells[r.id]
		if len(cells) == 0 {
			continue // found below
		}
		if words := cells[len(table.kernels):]; words[0] != r.gives || words[1] != r.otherwise {
			t.Errorf("ARCHITECTURE.md says of %s %q, want %q", r.id, words, []string{r.gives, r.otherwise})
		}
		for i, cell := range cells[:len(table.kernels)] {
			if cell != string(AnswerYes) && cell != string(AnswerNo) {
				t.Errorf("ARCHITECTURE.md says %q of %s on %v, want yes or no", cell, r.id, table.kernels[i])
			}
		}
	}
	if !slices.Equal(ids, table.features) {
		t.Errorf("ARCHITECTURE.md has the features %q, want %q", table.features, ids)
	}
}

// A kernel of a series that has no column may have more than the newest older one
// that has, and nothing less.
func TestLadderOfThisKernelIsAsDocumented(t *testing.T) {
	testutil.Privileged(t)
	table, running := architecture(t), runningSeries(t)
	base, ok := nearest(table.kernels, running)
	if !ok {
		t.Fatalf("no kernel of the ladder is as old as %v", running)
	}
	column := slices.Index(table.kernels, base)
	if base != running {
		t.Logf("no column for %v: compared with %v", running, base)
	}
	for _, f := range Ladder() {
		cells := table.cells[f.ID]
		if len(cells) == 0 {
			continue // TestLadderIsDocumented finds it
		}
		documented := Answer(cells[column])
		gained := base != running && documented == AnswerNo && f.Have == AnswerYes
		if f.Have != documented && !gained {
			t.Errorf("%s on %v: %s (%v), ARCHITECTURE.md says %s on %v", f.ID, running, f.Have, f.Err, documented, base)
		}
		t.Logf("%s: %s", f.ID, f.Have)
	}
}

// What the programs are built with must be what the ladder says.
func TestProbeAgreesWithTheLadder(t *testing.T) {
	testutil.Privileged(t)
	have := make(map[string]bool)
	for _, f := range Ladder() {
		have[f.ID] = f.Have == AnswerYes
	}
	want := Features{SetRetval: have["chosen-errno"], SockopsNetnsCookie: have["sockops-netns"], TCNetns: have["tc-netns"]}
	if got := Probe(); got != want {
		t.Errorf("programs are built with %+v, the ladder says %+v", got, want)
	}
}

// Programs and maps that stay open are found by TestMain, as descriptors.
func TestLadderLeavesNothingBehind(t *testing.T) {
	testutil.Privileged(t)
	var before, after unix.Rlimit
	for _, limit := range []*unix.Rlimit{&before, &after} {
		for _, f := range Ladder() { // the first may lift the limit
			if f.Err != nil {
				t.Errorf("%s: %v", f.ID, f.Err)
			}
		}
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, limit); err != nil {
			t.Fatal(err)
		}
	}
	if before != after {
		t.Errorf("limit of locked memory changed from %v to %v", before, after)
	}
}

func TestLadderIsReadFromItsTableAlone(t *testing.T) {
	table := readLadder(t, "text\n\n| feature | 5.10 | 6.1 | with it | without it |\n|---|---|---|---|---|\n"+
		"| `a` | no | yes | x | y |\n| `b` | yes | yes | z | w |\n\n| other | table | with | five | cells |\n")
	if !slices.Equal(table.kernels, []series{{5, 10}, {6, 1}}) || !slices.Equal(table.features, []string{"a", "b"}) {
		t.Errorf("read %v %v", table.kernels, table.features)
	}
	want := map[string][]string{"a": {"no", "yes", "x", "y"}, "b": {"yes", "yes", "z", "w"}}
	if !maps.EqualFunc(table.cells, want, slices.Equal) {
		t.Errorf("cells %v, want %v", table.cells, want)
	}
}
