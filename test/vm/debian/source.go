// Package debian fetches packages of any Debian release from where this
// machine's apt gets its own, beside that apt: it changes nothing of it.
package debian

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Source is one suite of an archive.
type Source struct {
	URI        string
	Suite      string
	Components []string
	Keyring    string // a path, or empty for the keys that apt trusts anyway
}

// String returns the source in apt's one-line form, sources.list(5).
func (s Source) String() string {
	option := ""
	if s.Keyring != "" {
		option = "[signed-by=" + s.Keyring + "] "
	}
	return fmt.Sprintf("deb %s%s %s %s", option, s.URI, s.Suite, strings.Join(s.Components, " "))
}

// Known returns the sources of binary packages that the machine whose root is
// given has set up for apt.
func Known(root fs.FS) ([]Source, error) {
	var paths []string
	for _, pattern := range []string{
		"etc/apt/sources.list", "etc/apt/sources.list.d/*.list", "etc/apt/sources.list.d/*.sources",
	} {
		matches, err := fs.Glob(root, pattern)
		if err != nil {
			return nil, err
		}
		paths = append(paths, matches...)
	}
	var known []Source
	for _, name := range paths {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return nil, fmt.Errorf("read apt's sources: %w", err)
		}
		if path.Ext(name) == ".sources" {
			known = append(known, parseStanzas(string(text))...)
		} else {
			known = append(known, parseLines(string(text))...)
		}
	}
	return known, nil
}

// Codename returns the name of the machine's own release.
func Codename(root fs.FS) (string, error) {
	file, err := root.Open("etc/os-release")
	if err != nil {
		return "", err
	}
	defer file.Close()
	return parseCodename(file)
}

func parseCodename(release io.Reader) (string, error) {
	lines := bufio.NewScanner(release)
	for lines.Scan() {
		if name, found := strings.CutPrefix(lines.Text(), "VERSION_CODENAME="); found {
			return strings.Trim(name, `"'`), nil
		}
	}
	return "", errors.Join(errors.New("find this machine's release: os-release does not name it"), lines.Err())
}

// Translate returns the sources of main in the suites, each the name of a
// release with -updates, -security or -backports after it or nothing. The
// machine, which runs the release codename, has to know an archive of that
// kind; backports are where the release itself is.
func Translate(known []Source, codename string, suites ...string) ([]Source, error) {
	var translated []Source
	for _, suite := range suites {
		kind := ""
		if i := strings.IndexByte(suite, '-'); i >= 0 {
			kind = suite[i:]
		}
		own := codename + kind
		if kind == "-backports" {
			own = codename
		}
		i := slices.IndexFunc(known, func(s Source) bool { return s.Suite == own && slices.Contains(s.Components, "main") })
		if i < 0 {
			return nil, fmt.Errorf("find the archive of %s: apt on this machine knows no %s", suite, own)
		}
		s := known[i]
		s.Suite, s.Components = suite, []string{"main"}
		translated = append(translated, s)
	}
	return translated, nil
}

// parseLines reads apt's one-line form.
func parseLines(text string) (found []Source) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" {
			continue
		}
		var s Source
		fields = fields[1:]
		if len(fields) > 0 && strings.HasPrefix(fields[0], "[") {
			end := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "]") })
			if end < 0 {
				continue
			}
			for _, option := range fields[:end+1] {
				if keyring, ok := strings.CutPrefix(strings.Trim(option, "[]"), "signed-by="); ok {
					s.Keyring = keyring
				}
			}
			fields = fields[end+1:]
		}
		if len(fields) < 3 {
			continue
		}
		s.URI, s.Suite, s.Components = fields[0], fields[1], fields[2:]
		found = append(found, s)
	}
	return found
}

// parseStanzas reads apt's deb822 form.
func parseStanzas(text string) (found []Source) {
	stanza, field := make(map[string]string), ""
	for line := range strings.Lines(text + "\n\n") {
		switch line = strings.TrimRight(line, " \t\r\n"); {
		case line == "":
			found = append(found, sourcesOf(stanza)...)
			clear(stanza)
		case line[0] == '#':
		case line[0] == ' ', line[0] == '\t':
			stanza[field] += line
		default:
			name, value, _ := strings.Cut(line, ":")
			field = strings.ToLower(name)
			stanza[field] = strings.TrimSpace(value)
		}
	}
	return found
}

func sourcesOf(stanza map[string]string) (found []Source) {
	if !slices.Contains(strings.Fields(stanza["types"]), "deb") || cmp.Or(strings.ToLower(stanza["enabled"]), "yes") != "yes" {
		return nil
	}
	keyring := stanza["signed-by"]
	if !path.IsAbs(keyring) { // a key that stands here itself
		keyring = ""
	}
	for uri := range strings.FieldsSeq(stanza["uris"]) {
		for suite := range strings.FieldsSeq(stanza["suites"]) {
			found = append(found, Source{uri, suite, strings.Fields(stanza["components"]), keyring})
		}
	}
	return found
}
