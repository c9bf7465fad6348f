package container

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

const (
	// maxTracked is how many entries are read at most: a table of that size takes
	// some tenths of a second.
	maxTracked = 100_000

	// patience is how long an answer of the kernel may take.
	patience = 10 * time.Second
)

// ErrCrowded says that connection tracking knows too many flows to list them.
var ErrCrowded = errors.New("too many tracked flows")

// Tracked is a flow by its first packet, before any address of it was translated.
type Tracked struct {
	Protocol flow.Protocol
	From, To netip.AddrPort
}

// ListTracked returns the TCP and UDP flows that the connection tracking of the
// calling thread's network namespace knows, none where nothing is tracked. The
// error is ErrCrowded where there are very many.
func ListTracked(proc string) ([]Tracked, error) {
	if !tracks(proc) {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(proc, "sys/net/netfilter/nf_conntrack_count"))
	if err != nil {
		return nil, fmt.Errorf("count tracked flows: %w", err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || n > maxTracked {
		return nil, ErrCrowded
	}
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	defer handle.Close()
	if err := handle.SetSocketTimeout(patience); err != nil {
		return nil, fmt.Errorf("set netfilter netlink timeout: %w", err)
	}
	var all []Tracked
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		found, err := handle.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // it changes all the time
			return nil, fmt.Errorf("list tracked flows: %w", err)
		}
		for _, f := range found {
			t := Tracked{From: end(f.Forward.SrcIP, f.Forward.SrcPort), To: end(f.Forward.DstIP, f.Forward.DstPort)}
			switch f.Forward.Protocol {
			case unix.IPPROTO_TCP:
				t.Protocol = flow.TCP
			case unix.IPPROTO_UDP:
				t.Protocol = flow.UDP
			default:
				continue
			}
			all = append(all, t)
		}
	}
	return all, nil
}

func end(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
