package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// snapshot reads the host's state. Its resolv.conf is the demo's.
func (s *scene) snapshot() (netns.Snapshot, error) {
	state, err := s.host.ns.Snapshot()
	if err != nil {
		return state, err
	}
	text, err := os.ReadFile(s.host.resolver)
	state.Resolver = string(text)
	return state, err
}

// showUnchanged compares the host, while its flows are carried, with what it was
// before the agent was started.
func (s *scene) showUnchanged(context.Context) error {
	now, err := s.snapshot()
	if err != nil {
		return err
	}
	s.screen.comment("The host is, byte for byte, what it was before the agent was started.")
	s.screen.table(comparison(s.before, now))
	return s.compare(now)
}

// comparison shows two states of a host side by side.
func comparison(before, now netns.Snapshot) [][]string {
	rows := [][]string{{"", "BYTES", "SHA-256 BEFORE", "SHA-256 NOW", ""}}
	for _, part := range []struct{ noun, before, now string }{
		{"links", before.Links, now.Links},
		{"addresses", before.Addresses, now.Addresses},
		{"routes", before.Routes, now.Routes},
		{"rules", before.Rules, now.Rules},
		{"nft ruleset", before.Nftables, now.Nftables},
		{"resolv.conf", before.Resolver, now.Resolver},
		{"sysctls", before.Sysctls, now.Sysctls},
	} {
		verdict := "same"
		if part.before != part.now {
			verdict = "CHANGED"
		}
		rows = append(rows, []string{part.noun, strconv.Itoa(len(part.now)), digest(part.before), digest(part.now), verdict})
	}
	return rows
}

// digest is the beginning of a text's SHA-256.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// compare shows how the host differs from what it was.
func (s *scene) compare(now netns.Snapshot) error {
	if diff := s.before.Diff(now); diff != "" {
		s.screen.output(diff)
		return errChanged
	}
	return s.screen.err
}

// showNothingLeft stops the programs, removes everything, and looks for what is
// still there.
func (s *scene) showNothingLeft(ctx context.Context) error {
	s.screen.comment("The agent and the edge are stopped, all is removed, and nothing is left.")
	if err := errors.Join(s.agent.stop(ctx), s.edge.stop(ctx)); err != nil {
		return err
	}
	now, err := s.snapshot()
	if err != nil {
		return err
	}
	if err := s.compare(now); err != nil {
		return err
	}
	// The agent removes its pins by itself; this looks before their file
	// system goes.
	if err := gone(s.pinFolder()); err != nil {
		return err
	}
	namespaces, err := s.network.identities()
	if err != nil {
		return err
	}
	if err := s.undo.all(); err != nil {
		return err
	}
	if err := errors.Join(gone(s.cgroup), gone(s.folder), released(namespaces)); err != nil {
		return err
	}
	s.screen.table([][]string{
		{"pins", "gone", s.pinFolder()},
		{"cgroup", "gone", s.cgroup},
		{"namespaces", "gone", strings.Join(namespaces, " ")},
		{"folder", "gone", s.folder},
	})
	return s.screen.err
}

// gone returns an error if there is such a file.
func gone(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errLeft
	}
	return fmt.Errorf("look for %s: %w", path, err)
}

// identities are the names by which /proc shows the namespaces.
func (n *network) identities() ([]string, error) {
	var names []string
	for _, ns := range n.fields() {
		var stat unix.Stat_t
		if err := unix.Fstat((*ns).Fd(), &stat); err != nil {
			return nil, fmt.Errorf("identify namespace: %w", err)
		}
		names = append(names, fmt.Sprintf("net:[%d]", stat.Ino))
	}
	return names, nil
}

// released returns an error if this process still holds a namespace. Its
// children, who were the only others inside, have been waited for.
func released(namespaces []string) error {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, entry := range entries {
		file, err := os.Readlink(filepath.Join(folder, entry.Name()))
		if err == nil && slices.Contains(namespaces, file) {
			return fmt.Errorf("look for %s: %w", file, errLeft)
		}
	}
	return nil
}
