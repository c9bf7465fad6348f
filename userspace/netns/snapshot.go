package netns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Snapshot is all that a network client for Linux is tempted to change: one
// text per kind, a line per object. Counters, neighbours and lifetimes, which
// change by themselves, and secrets are left out, so two snapshots of an
// untouched namespace are equal and can be shown.
type Snapshot struct {
	Links     string // index, name, type, MTU, hardware address, master, up
	Addresses string // IPv4 and IPv6
	Routes    string // of all tables, IPv4 and IPv6
	Rules     string // IPv4 and IPv6
	Nftables  string // the ruleset with handles, as the nft binary lists it
	Resolver  string // /etc/resolv.conf, which all namespaces share
	Sysctls   string // /proc/sys/net
}

// Snapshot reads the namespace's state. It needs the nft binary; the ruleset
// is readable to root only.
func (n *Namespace) Snapshot() (Snapshot, error) {
	var s Snapshot
	parts := []struct {
		read func() (string, error)
		text *string
		noun string
	}{
		// nft comes first: running it may load the modules that add sysctls.
		{n.nftables, &s.Nftables, "nft ruleset"},
		{n.links, &s.Links, "links"},
		{n.addresses, &s.Addresses, "addresses"},
		{n.routes, &s.Routes, "routes"},
		{n.rules, &s.Rules, "rules"},
		{resolver, &s.Resolver, "resolver configuration"},
		{n.sysctls, &s.Sysctls, "sysctls"},
	}
	for _, part := range parts {
		text, err := part.read()
		if err != nil {
			return Snapshot{}, fmt.Errorf("read %s: %w", part.noun, err)
		}
		*part.text = text
	}
	return s, nil
}

// Diff returns the lines that only one of two snapshots has: "- " before those
// of s, "+ " before those of later. It is empty if and only if they are equal.
func (s Snapshot) Diff(later Snapshot) string {
	var diff strings.Builder
	for _, part := range []struct{ noun, before, after string }{
		{"links", s.Links, later.Links},
		{"addresses", s.Addresses, later.Addresses},
		{"routes", s.Routes, later.Routes},
		{"rules", s.Rules, later.Rules},
		{"nftables", s.Nftables, later.Nftables},
		{"resolver", s.Resolver, later.Resolver},
		{"sysctls", s.Sysctls, later.Sysctls},
	} {
		if part.before == part.after {
			continue
		}
		fmt.Fprintf(&diff, "%s:\n", part.noun)
		before, after := lineCounts(part.before), lineCounts(part.after)
		writeSurplus(&diff, "- ", before, after)
		writeSurplus(&diff, "+ ", after, before)
	}
	return diff.String()
}

func lineCounts(text string) map[string]int {
	counts := make(map[string]int)
	for line := range strings.Lines(text) {
		counts[strings.TrimSuffix(line, "\n")]++
	}
	return counts
}

// writeSurplus writes each line as often as a has it more than b.
func writeSurplus(w *strings.Builder, mark string, a, b map[string]int) {
	for _, line := range slices.Sorted(maps.Keys(a)) {
		for range a[line] - b[line] {
			fmt.Fprintf(w, "%s%s\n", mark, line)
		}
	}
}

func (n *Namespace) nftables() (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("nft", "--stateless", "--handle", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("list by nft: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

func resolver() (string, error) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return string(text), nil
}

func (n *Namespace) links() (string, error) {
	return dump(n, (*netlink.Handle).LinkList, func(link netlink.Link) string {
		a := link.Attrs()
		return fmt.Sprintf("%d %s %s mtu %d address %s master %d up %t",
			a.Index, a.Name, link.Type(), a.MTU, a.HardwareAddr, a.MasterIndex, a.Flags&net.FlagUp != 0)
	})
}

func (n *Namespace) addresses() (string, error) {
	list := func(h *netlink.Handle) ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) }
	return dump(n, list, func(a netlink.Addr) string {
		return fmt.Sprintf("link %d %s peer %v broadcast %s scope %d label %q",
			a.LinkIndex, a.IPNet, a.Peer, a.Broadcast, a.Scope, a.Label)
	})
}

func (n *Namespace) routes() (string, error) {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	list := func(h *netlink.Handle) ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, every, netlink.RT_FILTER_TABLE)
	}
	return dump(n, list, func(r netlink.Route) string {
		return fmt.Sprintf("%s type %d protocol %s scope %s priority %d tos %d mtu %d",
			r, r.Type, r.Protocol, r.Scope, r.Priority, r.Tos, r.MTU)
	})
}

func (n *Namespace) rules() (string, error) {
	list := func(h *netlink.Handle) ([]netlink.Rule, error) { return h.RuleList(netlink.FAMILY_ALL) }
	return dump(n, list, func(r netlink.Rule) string {
		// A rule's own String leaves out marks, links and ports.
		text, err := json.Marshal(r)
		if err != nil {
			return fmt.Sprintf("%s: %v", r, err)
		}
		return string(text)
	})
}

// dump lists objects by netlink and returns the lines that format makes of
// them, sorted.
func dump[T any](n *Namespace, list func(*netlink.Handle) ([]T, error), format func(T) string) (string, error) {
	handle, err := n.Handle()
	if err != nil {
		return "", err
	}
	defer handle.Close()

	objects, err := list(handle)
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < 5; tries++ {
		objects, err = list(handle)
	}
	if err != nil {
		return "", err
	}
	lines := make([]string, 0, len(objects))
	for _, object := range objects {
		lines = append(lines, format(object)+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), nil
}

// sysctls lists what the namespace's threads see below /proc/sys/net.
func (n *Namespace) sysctls() (string, error) {
	const root = "/proc/sys/net"
	var text strings.Builder
	err := n.Do(func() error {
		return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil // a link that went while we walked
			}
			if err != nil || entry.IsDir() {
				return err
			}
			switch entry.Name() {
			case "nf_conntrack_count": // changes by itself
				return nil
			case "tcp_fastopen_key", "stable_secret": // not for a terminal
				return nil
			}
			value, err := os.ReadFile(path)
			if err != nil {
				// Some can only be written, others need a value first.
				value = []byte("unreadable")
			}
			name, _ := strings.CutPrefix(path, root+"/")
			fmt.Fprintf(&text, "%s = %s\n", name, bytes.ReplaceAll(bytes.TrimSpace(value), []byte("\n"), []byte("; ")))
			return nil
		})
	})
	return text.String(), err
}
