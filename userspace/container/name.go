package container

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// nameOf returns what people call the network namespace of some processes: the
// container that they are, or the name that the namespace has, or the service, or
// the first process. Known tells the name of a container by the kind and id.
func nameOf(processes []string, named string, known func(kind, id string) string) string {
	var service string
	for _, process := range processes {
		kind, id := classify(string(readFile(filepath.Join(process, "cgroup"))))
		switch kind {
		case "":
		case "service":
			if service == "" {
				service = kind + " " + id
			}
		default:
			return containerName(kind, id, known)
		}
	}
	switch {
	case named != "":
		return "netns " + named
	case service != "":
		return service
	}
	command := strings.TrimSpace(string(readFile(filepath.Join(processes[0], "comm"))))
	return fmt.Sprintf("process %s (%s)", filepath.Base(processes[0]), command)
}

// containerName returns the name of a container, or the start of its id.
func containerName(kind, id string, known func(kind, id string) string) string {
	if name := known(kind, id); name != "" {
		return kind + " " + name
	}
	if isID(id) {
		id = id[:12]
	}
	return kind + " " + id
}

// classify reads what runs a process, and as what, from the lines of its cgroup
// file. Of nested ones the innermost counts, but a container is more than the
// service in it.
func classify(cgroups string) (kind, id string) {
	for line := range strings.Lines(cgroups) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":") // hierarchy
		controllers, path, _ := strings.Cut(rest, ":")
		if controllers != "" && controllers != "name=systemd" {
			continue // the same process again
		}
		above := ""
		for part := range strings.SplitSeq(path, "/") {
			if k, i := classifyPart(above, part); k != "" && (k != "service" || kind == "" || kind == "service") {
				kind, id = k, i
			}
			above = part
		}
		if kind != "" {
			return kind, id
		}
	}
	return "", ""
}

// classifyPart reads one folder of a cgroup's path.
func classifyPart(above, part string) (kind, id string) {
	name, unit, _ := cutLast(part, ".") // of systemd's units: NAME.scope
	switch {
	case isID(part) && above == "docker":
		return "docker", part
	case isID(part) && strings.HasPrefix(above, "pod"), isID(part) && above == "kubepods":
		return "kubernetes", part
	case unit == "service" && strings.HasPrefix(name, "systemd-nspawn@"):
		return "machine", unescape(strings.TrimPrefix(name, "systemd-nspawn@"))
	case unit == "service":
		return "service", part
	case strings.HasPrefix(part, "lxc.payload."):
		return "lxc", strings.TrimPrefix(part, "lxc.payload.")
	case above == "lxc":
		return "lxc", part
	case strings.HasPrefix(part, "libpod-") && unit != "scope":
		if id := strings.TrimPrefix(part, "libpod-"); isID(id) {
			return "podman", id
		}
	case unit == "scope":
		return classifyScope(name)
	}
	return "", ""
}

// classifyScope reads the name of a scope, a unit of systemd that others made.
func classifyScope(name string) (kind, id string) {
	for prefix, kind := range map[string]string{
		"docker-": "docker", "libpod-": "podman", "cri-containerd-": "kubernetes", "crio-": "kubernetes",
	} {
		if id, ok := strings.CutPrefix(name, prefix); ok && isID(id) {
			return kind, id
		}
	}
	machine, ok := strings.CutPrefix(unescape(name), "machine-")
	if !ok {
		return "", ""
	}
	for _, driver := range []string{"qemu-", "lxc-"} { // libvirt's: driver, number, name
		if rest, ok := strings.CutPrefix(machine, driver); ok {
			if _, id, ok := strings.Cut(rest, "-"); ok {
				return "libvirt", id
			}
		}
	}
	return "machine", machine
}

// cutLast cuts at the last separator.
func cutLast(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(separator):], true
}

// isID reports whether text is the id of a container: 32 octets in hexadecimal.
func isID(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32
}

// unescape undoes what systemd does to names, systemd-escape(1): \x2d is a dash.
func unescape(name string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(name, `\x`)
		out.WriteString(before)
		if !found {
			return out.String()
		}
		if len(after) >= 2 {
			if octet, err := hex.DecodeString(after[:2]); err == nil {
				out.Write(octet)
				name = after[2:]
				continue
			}
		}
		out.WriteString(`\x`)
		name = after
	}
}

// dockerNames returns the name that Docker keeps for a container.
func (o Options) dockerNames(id string) string {
	var config struct{ Name string }
	if json.Unmarshal(readFile(filepath.Join(o.Docker, id, "config.v2.json")), &config) != nil {
		return ""
	}
	return printable(strings.TrimPrefix(config.Name, "/"))
}

// podmanNames returns the names that Podman keeps, by id.
func (o Options) podmanNames() map[string]string {
	var list []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	names := make(map[string]string)
	if json.Unmarshal(readFile(o.Podman), &list) != nil {
		return names
	}
	for _, c := range list {
		if len(c.Names) > 0 {
			names[c.ID] = printable(c.Names[0])
		}
	}
	return names
}

// printable drops what would spoil a terminal.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, name)
}
