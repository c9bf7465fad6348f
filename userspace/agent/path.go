package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/device"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// whereabouts is all that the way of a flow depends on.
type whereabouts struct {
	udp        bool
	verdict    string // as an explanation has it
	foreign    bool   // it comes from another network namespace
	packets    bool   // packets are acquired at all
	containers bool   // and those that are forwarded, too
	external   bool   // another relay carries what the socket path acquires
	device     string // that the flow leaves by; empty: there is no route
	uplink     bool   // packets are acquired there
	broken     bool   // they should be, and cannot

	// refused says that the channel's edges carry no datagrams.
	refused   bool
	hardening maps.Hardening // of what is no TCP of the host
}

// Path implements control.Agent.
func (a *Agent) Path(_ context.Context, q control.PathQuestion) (control.Path, error) {
	cfg := a.config.Load()
	w := whereabouts{
		udp:        q.Flow.Protocol == policy.UDP,
		verdict:    q.Verdict,
		packets:    cfg.Packet.Acquires() && cfg.Relay.ExternalListener == "",
		containers: cfg.Packet.Containers != config.ContainersOff,
		external:   cfg.Relay.ExternalListener != "",
	}
	var err error
	if w.foreign, err = foreign(q.Namespace); err != nil {
		return control.Path{}, err
	}
	to := a.destination(q.Flow)
	if err := a.whereTo(&w, to); err != nil {
		return control.Path{}, err
	}
	path := w.path()
	if w.foreign {
		path.Namespace = fmt.Sprint(q.Namespace)
	}
	return path, nil
}

// foreign reports whether an inode is that of another network namespace than the
// agent's; 0 is the agent's own.
func foreign(inode uint64) (bool, error) {
	if inode == 0 {
		return false, nil
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return false, &os.PathError{Op: "stat", Path: "/proc/self/ns/net", Err: err}
	}
	return own.Ino != inode, nil
}

// destination is the address to which packets of a flow go: of a name that is
// acquired the synthetic one, else the original one if it is known.
func (a *Agent) destination(f policy.Flow) netip.AddrPort {
	if f.Addr.IsValid() {
		return netip.AddrPortFrom(f.Addr, f.Port)
	}
	f, e := a.named(f)
	if synthetic := e.synthetic(); len(synthetic) > 0 {
		return netip.AddrPortFrom(synthetic[0], f.Port)
	}
	return netip.AddrPortFrom(f.Addr, f.Port)
}

// whereTo fills in where a flow leaves the host, and what the tables have of it.
func (a *Agent) whereTo(w *whereabouts, to netip.AddrPort) error {
	if !to.IsValid() {
		return nil
	}
	out, err := device.Toward(to.Addr())
	if err != nil {
		return err
	}
	uplinks, err := a.datapath.Maps.Uplinks()
	if err != nil {
		return err
	}
	w.device = out.Name
	if i := slices.IndexFunc(uplinks, func(u maps.Uplink) bool { return u.Index == out.Index }); i >= 0 {
		w.uplink, w.broken = uplinks[i].Pair != 0, uplinks[i].Pair == 0
	}
	protocol := maps.TCP
	if w.udp {
		protocol = maps.UDP
	}
	match, err := a.datapath.Maps.Match(protocol, to)
	w.refused, w.hardening = match.Datagrams == maps.DatagramsRefused, match.Entry.Hardening
	return err
}

// path says by which way the flow goes.
func (w *whereabouts) path() control.Path {
	acquired, refused := policy.VerdictAcquire.String(), policy.VerdictBlock.String()
	switch {
	case w.verdict != acquired && w.verdict != refused:
		return control.Path{Way: control.WayDirect, Why: "nothing acquires it", Device: w.device}
	case !w.foreign && !w.udp && w.verdict == refused:
		return control.Path{Way: control.WayNone, Why: "connect() is refused"}
	case !w.foreign && !w.udp:
		return control.Path{Way: control.WaySocket, Why: w.whySocket()}
	}
	path := control.Path{Way: control.WayDirect, Why: w.whyDirect(), Device: w.device}
	hurt := w.device + ` has no enclave at present, see "bpfacq status", and the rule's hardening is `
	switch {
	case path.Why != "":
	case w.broken && w.hardening == maps.HardeningBlock:
		path.Way, path.Why = control.WayNone, hurt+"block"
	case w.broken:
		path.Why = hurt + "bypass"
	case w.verdict == refused:
		path.Way, path.Why = control.WayNone, "its packets are answered as if nobody listened, where they leave by "+w.device
	case w.udp && w.refused && w.hardening == maps.HardeningBlock:
		path.Way, path.Why = control.WayNone, "no edge of the channel carries UDP, and the rule's hardening is block"
	case w.udp && w.refused:
		path.Why = "no edge of the channel carries UDP, and the rule's hardening is bypass"
	case w.foreign:
		path.Way, path.Why = control.WayPacket, "the host forwards it, and it is acquired where it leaves by "+w.device
	default:
		path.Way, path.Why = control.WayPacket, "its packets are acquired where they leave by "+w.device
	}
	return path
}

// whySocket says what goes for other sockets than the plain ones.
func (w *whereabouts) whySocket() string {
	why := "connect() leads to the agent"
	switch {
	case w.external:
		return "connect() leads to the external listener"
	case w.uplink:
		return why + "; of a socket that is bound to a device or an address, packets are acquired where they leave by " + w.device
	case w.broken:
		return why + "; of a socket that is bound to a device or an address, the rule's hardening decides, as " + w.device + " has no enclave at present"
	}
	return why + "; a socket that is bound to a device or an address goes direct"
}

// whyDirect says why no packet of the flow is acquired, if that is so.
func (w *whereabouts) whyDirect() string {
	what := "UDP"
	if w.foreign {
		what = "what comes from another network namespace"
	}
	switch {
	case w.external:
		return what + " is not acquired for an external listener"
	case !w.packets:
		return what + " is the packet path's, which is off: packet.uplinks is empty"
	case w.foreign && !w.containers:
		return what + ` is not acquired: packet.containers is "off"`
	case w.device == "":
		return "the host has no route there"
	case !w.uplink && !w.broken:
		return "the host sends it out by " + w.device + ", which is no uplink"
	}
	return ""
}
