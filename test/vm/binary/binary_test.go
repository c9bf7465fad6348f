package binary

import (
	"debug/elf"
	"path/filepath"
	"strings"
	"testing"
)

func TestBinariesNeedNoLibraries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest")
	if err := Build(t.Context(), "../../..", path, "./test/vm/guest", "build"); err != nil {
		t.Fatal(err)
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if libraries, err := file.ImportedLibraries(); len(libraries) > 0 || err != nil {
		t.Errorf("needs %q, %v", libraries, err)
	}
	if file.Machine != elf.EM_X86_64 {
		t.Errorf("is for %v, which the machines are not", file.Machine)
	}
}

func TestPackageThatDoesNotBuildIsNamed(t *testing.T) {
	err := Build(t.Context(), "../../..", filepath.Join(t.TempDir(), "x"), "./test/vm/none", "build")
	if err == nil || !strings.HasPrefix(err.Error(), "build ./test/vm/none: ") {
		t.Errorf("got %v", err)
	}
}
