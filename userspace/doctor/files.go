package doctor

import (
	"io"
	"io/fs"
	"strings"
)

// maxText is more than any file has that a check reads whole, in bytes.
const maxText = 4 << 20

// rooted is an absolute path as fs.FS wants it.
func rooted(path string) string {
	if path = strings.Trim(path, "/"); path == "" {
		return "."
	}
	return path
}

// text reads a small file.
func text(root fs.FS, path string) (string, error) {
	f, err := root.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxText))
	return string(content), err
}

// firstLine reads the first line of a file, and nothing if there is none.
func firstLine(root fs.FS, path string) string {
	content, err := text(root, path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(content, "\n")
	return strings.TrimSpace(line)
}

// mount is a mounted file system, as proc_pid_mountinfo(5) describes it.
type mount struct {
	root   string // within the file system
	point  string
	kind   string
	super  string // options of the file system
	hidden bool   // by a later mount on the same point
}

func readMounts(root fs.FS) []mount {
	content, err := text(root, "proc/self/mountinfo")
	if err != nil {
		return nil
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	for line := range strings.Lines(content) {
		before, after, _ := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) < 5 || len(what) < 3 {
			continue
		}
		m := mount{root: where[3], point: unescape.Replace(where[4]), kind: what[0], super: what[2]}
		for i := range all {
			all[i].hidden = all[i].hidden || all[i].point == m.point
		}
		all = append(all, m)
	}
	return all
}

// mountOf is the mount that a path lies on.
func mountOf(mounts []mount, path string) (mount, bool) {
	var best mount
	found := false
	for _, m := range mounts {
		if !m.hidden && within(path, m.point) && (!found || len(m.point) >= len(best.point)) {
			best, found = m, true
		}
	}
	return best, found
}

// within reports whether one absolute path is another or lies below it.
func within(path, folder string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(folder, "/"))
	return ok && (rest == "" || rest[0] == '/')
}
