package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// costs are the instructions that the verifier walks through, by program. They
// differ between kernels; testdata/cost has them for each series.
type costs map[string]int

// tolerated is how much a program may grow unnoticed, in percent.
const tolerated = 10

// TestVerifiedInstructionsStayBounded compares the programs as this kernel gets
// them with what they were. UPDATE=1 writes down what they are.
func TestVerifiedInstructionsStayBounded(t *testing.T) {
	testutil.Privileged(t)
	const folder = "testdata/cost"
	running, now := runningSeries(t), measureCosts(t)
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, running.String()+".txt"), []byte(now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	known, err := knownCosts(folder)
	if err != nil {
		t.Fatal(err)
	}
	base, ok := nearest(slices.Collect(maps.Keys(known)), running)
	if !ok {
		t.Fatalf("no costs are written down for %v or an older series: UPDATE=1 go test ./loader", running)
	}
	if base != running {
		t.Logf("no costs are written down for %v: compared with %v", running, base)
	}
	table, wrong := known[base].compare(now)
	t.Logf("verified instructions, %v in %s and here:\n%s", base, folder, table)
	for _, text := range wrong {
		t.Errorf("%s: if that is meant, UPDATE=1 go test ./loader on each kernel (UPDATE=1 make vmtest)", text)
	}
}

// measureCosts loads every program with the features of this kernel.
func measureCosts(t *testing.T) costs {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil { // before 5.11 maps need it
		t.Fatal(err)
	}
	have := Probe()
	socket, err := specWith(have)
	if err != nil {
		t.Fatal(err)
	}
	packet, err := packetSpecWith(have)
	if err != nil {
		t.Fatal(err)
	}
	all := make(costs)
	for _, spec := range []*ebpf.CollectionSpec{socket, packet} {
		measure(t, spec, all)
	}
	return all
}

// measure loads the programs of one object.
func measure(t *testing.T, spec *ebpf.CollectionSpec, all costs) {
	t.Helper()
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer collection.Close()

	for name, program := range collection.Programs {
		// The figure in a program's description came with 5.16, the line in
		// the log is older than all that is supported.
		_, counted, _ := strings.Cut(program.VerifierLog, "processed ")
		var n int
		if _, err := fmt.Sscanf(counted, "%d insns", &n); err != nil {
			t.Fatalf("log of %s: %v: %q", name, err, program.VerifierLog)
		}
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		if described, ok := info.VerifiedInstructions(); ok && int(described) != n {
			t.Errorf("log of %s says %d instructions, its description %d", name, n, described)
		}
		all[name] = n
	}
}

// knownCosts reads every file of the folder.
func knownCosts(folder string) (map[series]costs, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := make(map[series]costs)
	for _, entry := range entries {
		s, ok := parseSeries(entry.Name())
		if !ok || entry.Name() != s.String()+".txt" {
			return nil, fmt.Errorf("%q is not named by a series", entry.Name())
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		if known[s], err = parseCosts(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
	}
	return known, nil
}

// parseCosts reads what String writes.
func parseCosts(text string) (costs, error) {
	all := make(costs)
	for line := range strings.Lines(text) {
		var name string
		var n int
		if _, err := fmt.Sscanf(line, "%s %d\n", &name, &n); err != nil || n <= 0 {
			return nil, fmt.Errorf("line %q: want a program and a number", line)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("line %q: a second number", line)
		}
		all[name] = n
	}
	return all, nil
}

// String has a line for each program.
func (c costs) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%s %d\n", name, c[name])
	}
	return b.String()
}

// compare shows what became of every program, and what must not have.
func (c costs) compare(now costs) (table string, wrong []string) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	names := slices.Concat(slices.Collect(maps.Keys(c)), slices.Collect(maps.Keys(now)))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		before, was := c[name]
		after, is := now[name]
		switch {
		case !was:
			fmt.Fprintf(w, "%s\t-\t→\t%d\tnew\n", name, after)
			wrong = append(wrong, name+" is missing in the table")
		case !is:
			fmt.Fprintf(w, "%s\t%d\t→\t-\tgone\n", name, before)
			wrong = append(wrong, name+" is gone from the code")
		default:
			percent := 100 * float64(after-before) / float64(before)
			remark := ""
			if percent > tolerated {
				wrong = append(wrong, fmt.Sprintf("%s grew from %d to %d, by %.1f %%", name, before, after, percent))
				remark = "grew"
			}
			if percent < -tolerated {
				remark = "shrank: the table can be made tighter"
			}
			fmt.Fprintf(w, "%s\t%d\t→\t%d\t%+.1f %%\t%s\n", name, before, after, percent, remark)
		}
	}
	w.Flush()
	return b.String(), wrong
}

func TestGrowthOfProgramsIsFound(t *testing.T) {
	base := costs{"connect4": 1000, "sockops": 200}
	for _, test := range []struct {
		name  string
		now   costs
		wrong []string
		table string // a line of it
	}{
		{"nothing changed", costs{"connect4": 1000, "sockops": 200}, nil, "connect4  1000  →  1000  +0.0 %  \n"},
		{"growth of a tenth", costs{"connect4": 1100, "sockops": 200}, nil, "connect4  1000  →  1100  +10.0 %  \n"},
		{"growth over a tenth", costs{"connect4": 1101, "sockops": 200},
			[]string{"connect4 grew from 1000 to 1101, by 10.1 %"}, "sockops   200   →  200   +0.0 %   \n"},
		{"large shrink", costs{"connect4": 1000, "sockops": 100}, nil, "sockops   200   →  100   -50.0 %  shrank: the table can be made tighter\n"},
		{"new program", costs{"connect4": 1000, "sockops": 200, "tc": 5}, []string{"tc is missing in the table"}, "tc        -     →  5     new\n"},
		{"program gone", costs{"connect4": 1000}, []string{"sockops is gone from the code"}, "sockops   200   →  -     gone\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, wrong := base.compare(test.now)
			if diff := cmp.Diff(test.wrong, wrong); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if !strings.Contains(table, test.table) {
				t.Errorf("table lacks %q:\n%s", test.table, table)
			}
		})
	}
}

func TestCostFilesAreReadStrictly(t *testing.T) {
	written := costs{"b": 2, "a": 10}
	if got, err := parseCosts(written.String()); err != nil || !maps.Equal(got, written) {
		t.Errorf("%q is read as %v, %v", written, got, err)
	}
	for _, text := range []string{"a\n", "a x\n", "a 1 2\n", "a 0\n", "a 1\na 2\n", "\n"} {
		if got, err := parseCosts(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}
