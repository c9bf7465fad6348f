package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/control"
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
	l := a.loaded.Load()
	if l == nil {
		return policy.Explanation{}, control.ErrNoPolicy
	}
	why := policy.Explain(l.Policy, f)
	why.Generation = l.Generation
	if !f.Addr.IsValid() {
		return why, nil
	}
	return why, a.confirm(l, f)
}

// confirm compares the policy's decision with the loaded maps'.
func (a *Agent) confirm(l *loaded, f policy.Flow) error {
	view, err := a.datapath.Maps.View()
	if err != nil {
		return err
	}
	defer view.Close()
	proto := maps.TCP
	if f.Protocol == policy.UDP {
		proto = maps.UDP
	}
	got, found, err := view.Lookup(proto, f.Addr, f.Port)
	if err != nil {
		return err
	}
	// Names are not in the maps.
	want := l.Policy.Match(policy.Flow{Protocol: f.Protocol, Addr: f.Addr, Port: f.Port})
	same := !found && want.Reason == policy.ReasonNoMatch
	if found && got.Action == maps.ActionProtect {
		same = want.Protection >= 0
	} else if found {
		same = want.Rule == int(got.Rule) && want.Rule >= 0
	}
	if same && view.Generation == l.Generation {
		return nil
	}
	return fmt.Errorf("generation %d, entry %q of generation %d: %w",
		l.Generation, got.ID, view.Generation, errDisagree)
}
