package main

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnknownCommandIsRefused(t *testing.T) {
	for _, args := range [][]string{nil, {""}, {"kernel"}, {"kernels5.10"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q is run", args)
		}
	}
}

// elsewhere are the packages with privileged tests that run on this machine
// only, and why.
func elsewhere() map[string]string {
	return map[string]string{
		"./userspace/edge": "it asks nothing of the kernel that differs",
		"./test/bench":     "a benchmark of an emulator says nothing",
		"./userspace/demo": "it builds bpfacq, and a machine has no Go",
		"./test/resolver":  "it starts programs by the thousand, and what they ask of the kernel test/e2e asks too",
	}
}

func TestEveryPrivilegedPackageIsTestedOnKernels(t *testing.T) {
	asks := regexp.MustCompile(`\btestutil\.(Privileged|Cgroup|Netns|BPFFS)\(`)
	top := os.DirFS("../..")
	found := []string{"./test/testutil"} // which calls them by other names
	err := fs.WalkDir(top, ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && name == ".build" { // the roots of machines, which come and go
			return fs.SkipDir
		}
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(top, name)
		folder := "./" + path.Dir(name)
		if asks.Match(text) && elsewhere()[folder] == "" && folder != "./test/vm" {
			found = append(found, folder)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	if diff := cmp.Diff(slices.Compact(found), slices.Sorted(slices.Values(privileged()))); diff != "" {
		t.Errorf("packages with privileged tests (-) and those that kernels run (+):\n%s", diff)
	}
}

func TestWhatKernelsNeedNotRunIsThere(t *testing.T) {
	for folder, tests := range indifferent() {
		if !slices.Contains(privileged(), folder) {
			t.Errorf("no kernel runs %s", folder)
		}
		names, err := fs.Glob(os.DirFS("../.."), path.Join(folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, name := range names {
			text, err := fs.ReadFile(os.DirFS("../.."), name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		for _, name := range tests {
			if !strings.Contains(string(all), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("%s has no %s", folder, name)
			}
		}
	}
}
