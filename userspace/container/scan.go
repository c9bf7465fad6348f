package container

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// scan returns the network namespaces of running processes, but for its own.
func (o Options) scan() []place {
	own := folderOf(filepath.Join(o.Proc, "self"))
	processes := make(map[uint64][]string) // folders of some processes, by namespace
	var order []uint64
	for _, folder := range o.processes() {
		inode := folderOf(folder)
		known := processes[inode]
		if inode == 0 || inode == own || len(known) == 0 && len(order) == maxNamespaces {
			continue
		}
		if known == nil {
			order = append(order, inode)
		}
		if len(known) < 8 { // of which one will tell
			processes[inode] = append(known, folder)
		}
	}
	named := o.namespaceNames()
	docker, podman := o.dockerNames, o.podmanNames()
	places := make([]place, 0, len(order))
	for _, inode := range order {
		folders := processes[inode]
		p := place{folder: inode, inode: namespaceOf(folders[0]), addrs: addressesOf(folders[0])}
		p.name = nameOf(folders, named[p.inode], func(kind, id string) string {
			if kind == "docker" {
				return docker(id)
			}
			return podman[id]
		})
		places = append(places, p)
	}
	return places
}

// processes returns the folders of running processes, the oldest of a namespace
// likely first.
func (o Options) processes() []string {
	proc, err := os.Open(o.Proc)
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, err := proc.Readdirnames(maxProcesses)
	if err != nil && len(names) == 0 {
		return nil
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	folders := make([]string, len(pids))
	for i, pid := range pids {
		folders[i] = filepath.Join(o.Proc, strconv.Itoa(pid))
	}
	return folders
}

// folderOf tells the network namespaces of processes apart by what proc shows of
// them: the files below net are other ones in each. Unlike the namespace itself,
// those of a process with more privileges may be seen. It is 0 for none.
func folderOf(process string) uint64 { return inodeOf(filepath.Join(process, "net", "dev")) }

// namespaceOf returns the inode of a process's network namespace, or 0.
func namespaceOf(process string) uint64 { return inodeOf(filepath.Join(process, "ns", "net")) }

func inodeOf(path string) uint64 {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0
	}
	return stat.Ino
}

// addressesOf returns the addresses of a process's network namespace that others can
// reach it by.
func addressesOf(process string) []netip.Addr {
	addrs := append(addresses4(readFile(filepath.Join(process, "net", "fib_trie"))),
		addresses6(readFile(filepath.Join(process, "net", "if_inet6")))...)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxAddresses)]
}

// addresses4 finds local addresses in the tree of routes: a leaf, and on the line
// below it what it is.
func addresses4(trie []byte) (addrs []netip.Addr) {
	var leaf netip.Addr
	for line := range bytes.Lines(trie) {
		text := strings.TrimSpace(string(line))
		if addr, ok := strings.CutPrefix(text, "|-- "); ok {
			leaf, _ = netip.ParseAddr(addr)
		} else if text == "/32 host LOCAL" && leaf.IsValid() && !leaf.IsLoopback() {
			addrs = append(addrs, leaf)
		}
	}
	return addrs
}

// addresses6 reads lines of an address, then the device's index, the length of
// the prefix and the scope, all in hexadecimal.
func addresses6(table []byte) (addrs []netip.Addr) {
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		if len(fields) < 4 || fields[3] != "00" { // of global scope
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		if addr, ok := netip.AddrFromSlice(raw); ok && err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// readFile returns the start of a file, or nothing.
func readFile(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(bufio.NewReader(f), maxFile))
	if err != nil {
		return nil
	}
	return content
}

// namespaceNames returns the names of network namespaces that have one, by inode.
func (o Options) namespaceNames() map[uint64]string {
	named := make(map[uint64]string)
	entries, err := os.ReadDir(o.Namespaces)
	if err != nil {
		return named
	}
	for _, e := range entries[:min(len(entries), maxNamespaces)] {
		if inode := inodeOf(filepath.Join(o.Namespaces, e.Name())); inode != 0 {
			named[inode] = cmp.Or(named[inode], e.Name())
		}
	}
	return named
}
