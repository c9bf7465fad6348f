// Package device knows the network devices of a namespace: at which addresses
// of its own each one can be reached, and which networks the routes lead to.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/rtnetlink"
)

const (
	// loopback is the index of lo in every namespace.
	loopback = 1

	// pause is how long changes are gathered after some were heeded: an address
	// often comes with others.
	pause = 50 * time.Millisecond

	// dumps is how often a list is asked for that changes while it is read.
	dumps = 5
)

// Table is told the devices. Its methods are not called concurrently.
type Table interface {
	// SetDevice says at which addresses a device can be reached by this host
	// alone: one of each family, the zero Addr for none. IPv6 ones may be
	// link-local, and have no zone.
	SetDevice(ifindex int, v4, v6 netip.Addr) error

	// DeleteDevice says that a device has none any more.
	DeleteDevice(ifindex int) error
}

// Watcher keeps a Table as the namespace's devices are.
type Watcher struct {
	table  Table
	log    *slog.Logger
	events *rtnetlink.Events
	handle *netlink.Handle
	known  map[int]addresses
}

// addresses are what a Table is told of one device.
type addresses struct{ v4, v6 netip.Addr }

// Open fills in the table with the devices of the calling thread's network
// namespace. What the table refuses is logged and tried again at the next change.
// The caller runs the Watcher and closes it.
func Open(table Table, log *slog.Logger) (*Watcher, error) {
	// Changes that come while the list is read are heeded after it.
	events, err := rtnetlink.Subscribe(rtnetlink.Links | rtnetlink.Addresses)
	if err != nil {
		return nil, err
	}
	handle, err := rtnetlink.Open()
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	w := &Watcher{table: table, log: log, events: events, handle: handle, known: make(map[int]addresses)}
	if err := w.follow(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Run keeps the table up to date until ctx is done, which is no error.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		if err := w.events.Wait(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		if err := w.follow(); err != nil {
			w.log.Warn("follow devices", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Close releases what Open has opened. It is not called while Run runs.
func (w *Watcher) Close() error {
	w.handle.Close()
	return w.events.Close()
}

// follow reads all addresses and tells the table what has changed.
func (w *Watcher) follow() error {
	all, err := settled(func() ([]netlink.Addr, error) { return w.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	current := choose(all)
	for index, want := range current {
		if w.known[index] == want {
			continue
		}
		if err := w.table.SetDevice(index, want.v4, want.v6); err != nil {
			w.log.Warn("note device", slog.Int("ifindex", index), slog.Any("error", err))
			continue
		}
		w.known[index] = want
	}
	for index := range maps.Clone(w.known) {
		if _, ok := current[index]; ok {
			continue
		}
		if err := w.table.DeleteDevice(index); err != nil {
			w.log.Warn("forget device", slog.Int("ifindex", index), slog.Any("error", err))
			continue
		}
		delete(w.known, index)
	}
	return nil
}

// settled asks again for a list that has changed while it was read.
func settled[T any](list func() (T, error)) (T, error) {
	all, err := list()
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < dumps; tries++ {
		all, err = list()
	}
	return all, err
}

// choose picks the addresses of each device but lo: of equal ones the first.
func choose(all []netlink.Addr) map[int]addresses {
	chosen, ranks := make(map[int]addresses), make(map[int]struct{ v4, v6 rank })
	for _, a := range all {
		addr, r := usable(a)
		if r == 0 || a.LinkIndex == loopback {
			continue
		}
		best, at := chosen[a.LinkIndex], ranks[a.LinkIndex]
		switch {
		case addr.Is4() && r > at.v4:
			best.v4, at.v4 = addr, r
		case addr.Is6() && r > at.v6:
			best.v6, at.v6 = addr, r
		}
		chosen[a.LinkIndex], ranks[a.LinkIndex] = best, at
	}
	return chosen
}

// rank says how well an address serves. The zero value says not at all.
type rank int

const (
	linkLocal rank = iota + 1
	deprecated
	preferred
)

// usable returns a device's own address, and how well it serves to reach the
// device from this host. One that duplicate address detection (RFC 4862) has not
// passed yet is not received at.
func usable(a netlink.Addr) (netip.Addr, rank) {
	if a.IPNet == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
		return netip.Addr{}, 0
	}
	addr, _ := netip.AddrFromSlice(a.IP)
	addr = addr.Unmap()
	switch {
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback():
		return netip.Addr{}, 0
	case addr.IsLinkLocalUnicast():
		return addr, linkLocal
	case a.Flags&unix.IFA_F_DEPRECATED != 0:
		return addr, deprecated
	}
	return addr, preferred
}
