package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// installCommands are the commands of the readme's section Install, in order.
func installCommands(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(source, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return commands(string(readme), "Install")
}

// commands are the lines of the code blocks of a section.
func commands(page, section string) (lines []string) {
	inSection, inBlock := false, false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = !inBlock
		case inBlock && inSection && strings.TrimSpace(line) != "":
			lines = append(lines, line)
		case !inBlock && strings.HasPrefix(line, "## "):
			inSection = line == "## "+section
		}
	}
	return lines
}

func TestCommandsOfASectionAreThoseOfItsBlocks(t *testing.T) {
	const page = "# x\n```\nno\n```\n## Use\n```\nuse\n```\n## Install\nWith `apt`:\n```\none\n## two\n\n```\nthen\n```sh\nthree\n```\n## More\n```\nno\n```\n"
	if diff := cmp.Diff([]string{"one", "## two", "three"}, commands(page, "Install")); diff != "" {
		t.Error(diff)
	}
}

func TestReadmeSaysHowToInstall(t *testing.T) {
	found := strings.Join(installCommands(t), "\n")
	for _, want := range []string{"apt install ./bpfacq_", "/etc/bpfacq", "systemctl enable --now bpfacq", "bpfacq status"} {
		if !strings.Contains(found, want) {
			t.Errorf("section Install lacks %q:\n%s", want, found)
		}
	}
}
