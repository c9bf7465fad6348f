package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/device"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/synthetic"
)

// syntheticLog is the file of the state folder that holds names and their
// synthetic addresses.
const syntheticLog = "synthetic.log"

// subnetPointer is where a profile says where synthetic addresses come from.
const subnetPointer = "/configuration/managementService/hostAcquisitionInternalSubNet"

// warnNoPool says what a profile lacks that has rules for names.
const warnNoPool = "rules name hosts, and there is no subnet for synthetic addresses: names are not acquired"

// poolRange is where synthetic addresses come from. The zero value is nowhere.
type poolRange struct {
	path       string
	ipv4, ipv6 netip.Prefix
	reserved   []netip.Addr
}

func (r poolRange) equal(other poolRange) bool {
	return r.path == other.path && r.ipv4 == other.ipv4 && r.ipv6 == other.ipv6 && slices.Equal(r.reserved, other.reserved)
}

// poolOf returns where the synthetic addresses of a policy come from, which is
// nowhere if it acquires no names.
func poolOf(p *policy.Policy, cfg *config.Config) poolRange {
	if !p.Settings.SyntheticPool.IsValid() || !cfg.FQDN.Acquire || cfg.Relay.ExternalListener != "" || !wantsNames(p, cfg) {
		return poolRange{}
	}
	r := poolRange{
		path: filepath.Join(cfg.StateDir, syntheticLog),
		ipv4: p.Settings.SyntheticPool,
		ipv6: cfg.FQDN.Pool6(),
	}
	for _, pool := range r.prefixes() {
		r.reserved = append(r.reserved, p.Reserved(pool)...)
	}
	return r
}

// lacksPool reports whether a policy has names that it would acquire with a pool.
func lacksPool(p *policy.Policy, cfg *config.Config) bool {
	return cfg.FQDN.Acquire && cfg.Relay.ExternalListener == "" && wantsNames(p, cfg) && !p.Settings.SyntheticPool.IsValid()
}

func (r poolRange) prefixes() []netip.Prefix {
	all := []netip.Prefix{r.ipv4, r.ipv6}
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return !p.IsValid() })
}

// checkPools rejects a policy whose synthetic addresses would be somebody's: a
// Tunnel rule's, or those of a network to which the host has a route.
func checkPools(p *policy.Policy, cfg *config.Config) error {
	pool := poolOf(p, cfg)
	for _, prefix := range pool.prefixes() {
		err := policy.CheckPool(p, prefix)
		if err == nil {
			err = checkRoutes(prefix)
		}
		if err == nil && prefix.Addr().Is6() && 128-prefix.Bits() < 32-pool.ipv4.Bits() {
			err = fmt.Errorf("use %s for synthetic addresses: it has fewer than %s", prefix, pool.ipv4)
		}
		switch {
		case err == nil:
		case prefix.Addr().Is6():
			return fmt.Errorf("read fqdn.synthetic-ipv6: %w", err)
		default:
			return &control.RejectedError{Problems: []control.Problem{{
				Pointer: subnetPointer, Value: prefix.String(), Want: "a free prefix: " + err.Error(),
			}}}
		}
	}
	return nil
}

func checkRoutes(prefix netip.Prefix) error {
	r, found, err := device.Overlapping(prefix)
	switch {
	case err != nil:
		return err
	case found:
		return fmt.Errorf("use %s for synthetic addresses: it overlaps %s of this host", prefix, r)
	}
	return nil
}

// open opens the pool of a range, nil for that of nowhere.
func (n *names) open(r poolRange) (*synthetic.Pool, error) {
	if r.path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	return synthetic.Open(synthetic.Options{Path: r.path, IPv4: r.ipv4, IPv6: r.ipv6, Reserved: r.reserved, Log: n.log})
}

// pools are the ranges of synthetic addresses that are in force.
func (a *Agent) pools() []netip.Prefix {
	if g := a.names.current.Load(); g != nil {
		return g.policy.Pools
	}
	return nil
}
