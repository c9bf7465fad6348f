package matrix

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const release = "5.10.0-46-cloud-amd64"

// stream is what test2json makes of a package with one test of each kind.
const stream = `{"Action":"start","Package":"loader"}
{"Action":"run","Package":"loader","Test":"TestA"}
{"Action":"output","Package":"loader","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"loader","Test":"TestA","Output":"    a_test.go:1: all is well\n"}
{"Action":"output","Package":"loader","Test":"TestA","Output":"--- PASS: TestA (0.25s)\n"}
{"Action":"pass","Package":"loader","Test":"TestA","Elapsed":0.25}
{"Action":"run","Package":"loader","Test":"TestB"}
{"Action":"run","Package":"loader","Test":"TestB/sub"}
{"Action":"output","Package":"loader","Test":"TestB/sub","Output":"    b_test.go:7: got 1, want 2\n"}
{"Action":"output","Package":"loader","Test":"TestB/sub","Output":"    --- FAIL: TestB/sub (0.00s)\n"}
{"Action":"fail","Package":"loader","Test":"TestB/sub","Elapsed":0}
{"Action":"output","Package":"loader","Test":"TestB","Output":"--- FAIL: TestB (1.00s)\n"}
{"Action":"fail","Package":"loader","Test":"TestB","Elapsed":1}
{"Action":"run","Package":"loader","Test":"TestC"}
{"Action":"output","Package":"loader","Test":"TestC","Output":"    c_test.go:5: kernel 5.10.0-46-cloud-amd64 has no tcx, which came with 6.6\n"}
{"Action":"output","Package":"loader","Test":"TestC","Output":"--- SKIP: TestC (0.00s)\n"}
{"Action":"skip","Package":"loader","Test":"TestC","Elapsed":0}
{"Action":"output","Package":"loader","Output":"FAIL\n"}
{"Action":"fail","Package":"loader","Elapsed":1.5}
`

func tallyOf(t *testing.T, text string) (counted *tally, shown string) {
	t.Helper()
	var show bytes.Buffer
	counted = newTally(&show)
	for line := range strings.Lines(text) {
		if err := counted.take([]byte(strings.TrimSuffix(line, "\n"))); err != nil {
			t.Fatal(err)
		}
	}
	return counted, show.String()
}

func TestOutputIsThatOfGoTest(t *testing.T) {
	_, shown := tallyOf(t, "stray words\n"+stream)
	want := `stray words
--- PASS: loader TestA (250ms)
    b_test.go:7: got 1, want 2
    --- FAIL: TestB/sub (0.00s)
--- FAIL: TestB (1.00s)
--- FAIL: loader TestB (1s)
--- SKIP: loader TestC (0s) kernel 5.10.0-46-cloud-amd64 has no tcx, which came with 6.6
FAIL
FAIL loader (1.5s)
`
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Error(diff)
	}
}

func TestTestsAndTheirPartsAreCounted(t *testing.T) {
	counted, _ := tallyOf(t, stream)
	for end, want := range map[string]int{passed: 1, failed: 2, skipped: 1, unending: 0} {
		if got := counted.count(end); got != want {
			t.Errorf("%d ended with %s, want %d", got, end, want)
		}
	}
}

// finished returns a report of a kernel on which the tests of the package p
// ended as said, and p too.
func finished(series string, ends map[string]string) report {
	r := report{series: series, release: series + ".0-1", boot: 3100 * time.Millisecond, took: 200 * time.Second, tally: newTally(nil)}
	r.tally.ends[test{"p", ""}] = passed
	for name, end := range ends {
		if reason, is := strings.CutPrefix(end, skipped+" "); is {
			r.tally.reasons[test{"p", name}], end = reason, skipped
		}
		r.tally.ends[test{"p", name}] = end
	}
	return r
}

const lacksTCX = skipped + " kernel 5.10.0-1 has no tcx, which came with 6.6"

// Every row but the first differs in one respect from a run that passes.
func TestOnlyAProvenRunPasses(t *testing.T) {
	old := func(change func(*report)) []report {
		r := finished("5.10", map[string]string{"TestA": passed, "TestB": lacksTCX})
		change(&r)
		return []report{r, finished("6.12", map[string]string{"TestA": passed, "TestB": passed})}
	}
	for _, test := range []struct {
		name    string
		reports []report
		want    string // "" for a pass
	}{
		{"all is well", old(func(*report) {}), ""},
		{"a test failed", old(func(r *report) { r.tally.ends[test{"p", "TestA"}] = failed }), "5.10: p TestA failed"},
		{"a test did not end", old(func(r *report) { r.tally.ends[test{"p", "TestA"}] = unending }), "5.10: p TestA did not end"},
		{"the package failed", old(func(r *report) { r.tally.ends[test{"p", ""}] = failed }), "5.10: p failed"},
		{"the package did not end", old(func(r *report) { delete(r.tally.ends, test{"p", ""}) }), "5.10: p did not end"},
		{"the package has no tests", old(func(r *report) { r.tally.ends[test{"p", ""}] = skipped }), "5.10: p did not end"},
		{"only the guest says so", old(func(r *report) { r.code = 1 }), "5.10: guest ended with code 1"},
		{"nothing is known", old(func(r *report) { r.tally = newTally(nil) }), "5.10: p did not end"},
		{"skipped for another reason", old(func(r *report) { r.tally.reasons[test{"p", "TestB"}] = "needs curl" }), "5.10: p TestB was skipped: "},
		{"skipped without a reason", old(func(r *report) { delete(r.tally.reasons, test{"p", "TestB"}) }), "5.10: p TestB was skipped: "},
		{"no verdict", old(func(r *report) { r.err = qemu.ErrInfra }), "5.10: " + qemu.ErrInfra.Error()},
		{"not offered, though chosen", old(func(r *report) { r.err = errors.New("find it") }), "5.10: find it"},
		{"not offered", old(func(r *report) { r.err, r.absent = errors.New("find it"), true }), ""},
		{"nothing offered", []report{{series: "5.10", err: errors.New("find it"), absent: true}}, "no kernel was run"},
		{"nothing run", nil, "no kernel was run"},
		{"skipped everywhere", []report{
			finished("5.10", map[string]string{"TestA": passed, "TestB": lacksTCX}),
			finished("6.1", map[string]string{"TestA": passed, "TestB": strings.ReplaceAll(lacksTCX, "5.10", "6.1")}),
		}, "p TestB was skipped on every kernel"},
		{"skipped on the only one", []report{finished("5.10", map[string]string{"TestA": passed, "TestB": lacksTCX})}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := judge(test.reports, []string{"p"})
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q alone", err, test.want)
			}
		})
	}
}

func TestSkipMustProveItself(t *testing.T) {
	for _, test := range []struct {
		text string
		want bool
	}{
		{"kernel " + release + " has no tcx, which came with 6.6", true},
		{"kernel " + release + " has no MPTCP in Debian's kernels, which came with 5.11", true},
		{"kernel " + release + " has no tcx, which came with 5.10", false},
		{"kernel " + release + " has no tcx, which came with 4.20", false},
		{"kernel 5.4.0 has no tcx, which came with 6.6", false},
		{"kernel " + release + " has no , which came with", false},
		{"the kernel is too old", false},
		{"", false},
	} {
		if err := checkSkip(test.text, release); (err == nil) != test.want {
			t.Errorf("%q: got %v", test.text, err)
		}
	}
}

func TestTableHasALineForEachKernel(t *testing.T) {
	var table strings.Builder
	err := writeTable(&table, []report{
		finished("5.10", map[string]string{"TestA": passed, "TestA/sub": passed, "TestB": lacksTCX, "TestC": failed, "TestD": unending}),
		{series: "6.12", release: "6.12.117+deb12-cloud-amd64", err: qemu.ErrInfra},
		{series: "6.18", absent: true, err: errors.New("find it")},
		{series: "6.6", err: errors.New("find it")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `kernel  release                     boot   total  run  passed  failed  skipped
5.10    5.10.0-1                    3.1 s  200 s  4    2       2       1
6.12    6.12.117+deb12-cloud-amd64  no verdict
6.18    not offered
6.6     -  no verdict
skipped on 5.10: p TestB: kernel 5.10.0-1 has no tcx, which came with 6.6
`
	var got strings.Builder
	for line := range strings.Lines(table.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestConsoleTellsOfTheGuestAlone(t *testing.T) {
	boots := 0
	var shown bytes.Buffer
	c := &console{booted: func() { boots++ }, show: &shown}
	for _, line := range []string{"[ 0.1] VMBOOT\r", "VMBOOT 6.1\r", "[ 0.9] guest: x", "", "guest: load module\r", "VMEXIT 1"} {
		if err := c.take([]byte(line)); err != nil {
			t.Error(err)
		}
	}
	if boots != 1 || shown.String() != "guest: load module\n" {
		t.Errorf("booted %d times, shown %q", boots, shown.String())
	}
}

func TestChosenKernelsMayNotBeMissing(t *testing.T) {
	r := &run{Options: Options{Kernels: []Kernel{{Series: "5.10", Leaving: true}, {Series: "6.1"}}}}
	if diff := cmp.Diff(r.Kernels, r.wanted()); diff != "" {
		t.Error(diff)
	}
	r.Choice = []string{"5.10", "6.6"}
	if diff := cmp.Diff([]Kernel{{Series: "5.10"}, {Series: "6.6"}}, r.wanted()); diff != "" {
		t.Error(diff)
	}
}

// archiveOf writes a disk with one file on it.
func archiveOf(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "returns.tar")
	if err := makeDisk(path); err != nil {
		t.Fatal(err)
	}
	disk, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	w := tar.NewWriter(disk)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestChangedFilesComeBack(t *testing.T) {
	folder := t.TempDir()
	if err := unpack(archiveOf(t, "loader/testdata/cost/5.10.txt", "468"), folder); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(folder, "loader/testdata/cost/5.10.txt")); string(got) != "468" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := unpack(archiveOf(t, "../outside", "x"), folder); err == nil {
		t.Error("a file outside of the repository was written")
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := makeDisk(empty); err != nil {
		t.Fatal(err)
	}
	if err := unpack(empty, folder); err != nil {
		t.Errorf("of an empty disk: %v", err)
	}
}
