package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/hostname"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// errDisagree says that the kernel would decide otherwise than the policy says.
var errDisagree = errors.New("loaded maps disagree with the policy")

// Loaded implements control.Agent.
func (a *Agent) Loaded() (control.Loaded, error) {
	l := a.loaded.Load()
	if l == nil {
		return control.Loaded{}, control.ErrNoPolicy
	}
	return l.Loaded, nil
}

// Explain implements control.Agent: the policy tells why, and the loaded maps,
// read as the programs read them, must say the same.
func (a *Agent) Explain(_ context.Context, f policy.Flow) (policy.Explanation, error) {
	// No flip between the two answers.
	a.apply.Lock()
	defer a.apply.Unlock()
	a.names.writing.Lock()
	defer a.names.writing.Unlock()
	l := a.loaded.Load()
	if l == nil {
		return policy.Explanation{}, control.ErrNoPolicy
	}
	f, e := a.named(f)
	why := policy.Explain(l.Policy, f)
	why.Generation = l.Generation
	if why.Hostname != nil {
		why.Hostname.Synthetic = e.synthetic()
	}
	view, err := a.datapath.Maps.View()
	if err != nil {
		return why, err
	}
	defer view.Close()
	if view.Generation != l.Generation {
		return why, fmt.Errorf("generation %d, not %d: %w", view.Generation, l.Generation, errDisagree)
	}
	return why, errors.Join(confirm(view, l.Policy, f), confirmName(view, e))
}

// named completes a question about a name, or about the synthetic address that
// stands for one, by what is known of the name.
func (a *Agent) named(f policy.Flow) (policy.Flow, named) {
	synthetic := f.Addr.Unmap()
	if name, pooled := a.names.Reverse(synthetic); pooled && f.Name == "" && name != "" {
		f.Name, f.Addr = name, netip.Addr{}
	}
	name, ok := policy.CanonicalName(f.Name)
	if !ok {
		return f, named{}
	}
	e, _ := a.names.find(name)
	if f.Addr.IsValid() {
		return f, e
	}
	if f.Addr = cmp.Or(e.ipv4, e.ipv6); synthetic.Is6() {
		f.Addr = e.ipv6
	}
	if !f.Addr.IsValid() && e == (named{}) {
		f.Addr = a.original(name)
	}
	return f, e
}

// original is the address of a name that is not acquired, as it was asked for last.
func (a *Agent) original(name string) netip.Addr {
	all := a.hostnames.Snapshot()
	i := slices.IndexFunc(all, func(h hostname.Hostname) bool { return h.Name == name })
	if i < 0 {
		return netip.Addr{}
	}
	return all[i].Original
}

// confirm compares the policy's decision about an address, if there is one, with the
// loaded maps'.
func confirm(view *maps.View, p *policy.Policy, f policy.Flow) error {
	if !f.Addr.IsValid() {
		return nil
	}
	proto := maps.TCP
	if f.Protocol == policy.UDP {
		proto = maps.UDP
	}
	got, found, err := view.Lookup(proto, f.Addr, f.Port)
	if err != nil {
		return err
	}
	want := p.Match(policy.Flow{Protocol: f.Protocol, Addr: f.Addr, Port: f.Port})
	same := !found && want.Reason == policy.ReasonNoMatch
	switch {
	case !found:
	case got.Action == maps.ActionProtect:
		same = want.Protection >= 0
	case got.Action == maps.ActionSynthetic:
		same = want.Reason == policy.ReasonNoName
	default:
		same = want.Rule == int(got.Rule) && want.Rule >= 0
	}
	if same {
		return nil
	}
	return fmt.Errorf("entry %q: %w", got.ID, errDisagree)
}

// confirmName compares what is known of a name with the loaded maps.
func confirmName(view *maps.View, e named) error {
	for _, pair := range [][2]netip.Addr{{e.address.IPv4, e.ipv4}, {e.address.IPv6, e.ipv6}} {
		if !pair[0].IsValid() {
			continue
		}
		got, found, err := view.Name(pair[0])
		if err != nil {
			return err
		}
		if !found || got.Original.IsValid() && got.Original != pair[1] {
			return fmt.Errorf("name of %s: %w", pair[0], errDisagree)
		}
	}
	return nil
}
