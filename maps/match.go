package maps

import (
	"fmt"
	"net/netip"
)

// Match is what the policy in force says of a flow.
type Match struct {
	Generation uint32

	// Entry is the one that wins, its Action ActionNone if none does.
	Entry Entry

	// Name is what the destination stands for, if it is a synthetic address: its
	// Addr is the zero Addr otherwise, and its Row of no meaning if Entry is
	// ActionNone.
	Name Name

	// ByOriginal says that no rule of the name covers the port: Entry is that of
	// the original address.
	ByOriginal bool

	// Datagrams says of a Tunnel entry whether its channel carries them.
	Datagrams Datagrams
}

// Match asks the tables in force as the programs do, for a flow of the packet
// path. Of a synthetic address the row of its name decides; one that stands for no
// name has the Action ActionSynthetic. It takes a few system calls, and may be
// called from several goroutines. The error is ErrNoPolicy before the first policy.
func (m *Maps) Match(protocol Transport, dst netip.AddrPort) (Match, error) {
	var match Match
	err := m.withView(func(v *View) (err error) {
		match, err = v.match(protocol, netip.AddrPortFrom(dst.Addr().Unmap().WithZone(""), dst.Port()))
		return err
	})
	return match, err
}

func (v *View) match(protocol Transport, dst netip.AddrPort) (Match, error) {
	match := Match{Generation: v.Generation}
	entry, found, err := v.Lookup(protocol, dst.Addr(), dst.Port())
	if err != nil {
		return match, err
	}
	if found && entry.Action == ActionSynthetic {
		var known bool
		if match.Name, known, err = v.Name(dst.Addr()); err != nil {
			return match, err
		}
		if !known {
			match.Entry = entry
			return match, nil
		}
		entry, found, err = v.cell(match.Name.Row, protocol, dst.Port())
		if err == nil && !found && match.Name.Original.IsValid() {
			match.ByOriginal = true
			entry, found, err = v.Lookup(protocol, match.Name.Original, dst.Port())
		}
		if err != nil {
			return match, err
		}
	}
	if !found {
		return match, nil
	}
	match.Entry = entry
	if entry.Action == ActionTunnel {
		c, err := lookupChannel(v.inners[innerChannel], entry.Channel)
		if err != nil {
			return match, err
		}
		match.Datagrams = c.Datagrams
	}
	return match, nil
}

// withView lends the view of the generation in force, which stays open from call
// to call.
func (m *Maps) withView(use func(*View) error) error {
	generation, err := m.Generation()
	if err != nil {
		return err
	}
	m.viewing.RLock()
	if m.view != nil && m.view.Generation == generation {
		defer m.viewing.RUnlock()
		return use(m.view)
	}
	m.viewing.RUnlock()

	m.viewing.Lock()
	defer m.viewing.Unlock()
	if m.view == nil || m.view.Generation != generation {
		opened, err := m.View()
		if err != nil {
			return err
		}
		if m.view != nil {
			m.view.Close()
		}
		m.view = opened
	}
	return use(m.view)
}

// closeView gives back what withView keeps open.
func (m *Maps) closeView() error {
	m.viewing.Lock()
	defer m.viewing.Unlock()
	if m.view == nil {
		return nil
	}
	err := m.view.Close()
	m.view = nil
	if err != nil {
		return fmt.Errorf("close view: %w", err)
	}
	return nil
}
