package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/bpfacq/bpfacq/userspace/config"
)

// The pages in man are those of the commands and of the configuration's own
// comments. "UPDATE=1 go test ./cmd/bpfacq" rewrites them.
func TestManualIsThatOfTheCommands(t *testing.T) {
	want := manual(t)
	if os.Getenv("UPDATE") != "" {
		if err := errors.Join(os.RemoveAll("man"), os.CopyFS("man", os.DirFS(write(t, want)))); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, read(t, "man")); diff != "" {
		t.Errorf("UPDATE=1 rewrites the manual (-commands +man):\n%s", diff)
	}
}

func TestManualKeepsTheWordsOfTheHelp(t *testing.T) {
	pages := manual(t)
	for name, text := range map[string]string{
		"bpfacq-edge.1":          "\naddress, a prefix or \"*\", with IPv6 in brackets",
		"bpfacq-profile-check.1": "\n  problems  for which the agent rejects it",
		"bpfacq-run.1":           "\n  sudo bpfacq run --config ./bpfacq.toml",
		"bpfacq.toml.5":          "\n[edges.addresses]\n# \"edge.example.com\" = \"192.0.2.1:443\"",
	} {
		if !strings.Contains(pages[name], text) {
			t.Errorf("%s does not say %q:\n%s", name, text, pages[name])
		}
	}
}

// manual makes all pages, by their names.
func manual(t *testing.T) map[string]string {
	t.Helper()
	// Pages change with what they say and not with the calendar.
	date := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	pages := make(map[string]string)
	root := newRoot(&env{stdout: io.Discard, stderr: io.Discard, config: config.Path})
	root.DisableAutoGenTag = true
	var commands []*cobra.Command
	root.InitDefaultHelpCmd()
	walk(root, func(cmd *cobra.Command) { commands = append(commands, cmd) })
	for _, cmd := range commands {
		if cmd != root { // or the generator gives each family a help command
			cmd.SetHelpCommand(&cobra.Command{Hidden: true})
		}
		if cmd.HasSubCommands() {
			cmd.Use, cmd.DisableFlagsInUseLine = cmd.Use+" COMMAND", true
		}
		cmd.Long = markdown(cmd.Long)
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		header := &doc.GenManHeader{Section: "1", Date: &date, Source: "bpfacq", Manual: "bpfacq manual"}
		var page bytes.Buffer
		if err := doc.GenMan(cmd, header, &page); err != nil {
			t.Fatal(err)
		}
		pages[name+".1"] = page.String()
	}
	pages["bpfacq.toml.5"] = string(md2man.Render(fmt.Appendf(nil, `%% "BPFACQ.TOML" "5" "%s" "bpfacq" "bpfacq manual"
# NAME
bpfacq.toml - the configuration of the bpfacq agent
# SYNOPSIS
**%s**
# DESCRIPTION
This is the file as it is installed: it explains itself.
`+"```\n%s\n```"+`
# SEE ALSO
**bpfacq(1)**, **bpfacq-run(1)**
`, date.Format("Jan 2006"), config.Path, config.Example)))
	return pages
}

var special = regexp.MustCompile("[*_<\\[\\\\`]")

// markdown writes a command's description as the page generator wants it: lines
// that are set off keep their form.
func markdown(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "  ") {
			line = "    " + line
		} else {
			line = special.ReplaceAllString(line, `\$0`)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// write makes a folder of the pages.
func write(t *testing.T, pages map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func read(t *testing.T, folder string) map[string]string {
	t.Helper()
	pages := make(map[string]string)
	err := fs.WalkDir(os.DirFS(folder), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		page, err := os.ReadFile(filepath.Join(folder, name))
		pages[name] = string(page)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}
