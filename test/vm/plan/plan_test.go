package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanIsReadAsItWasWritten(t *testing.T) {
	want := Plan{
		Modules: []string{"/modules/000-veth.ko"}, Root: "d0", Source: "/src", Environment: []string{"CI=true"},
		Tests: []Test{{Package: "loader", Command: []string{"/src/loader.test", "-test.v"}}}, Returns: "d1",
	}
	text, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "plan.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(path, text[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path); err == nil {
		t.Errorf("of a broken plan: %+v", got)
	}
}
