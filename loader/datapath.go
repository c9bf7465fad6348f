package loader

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// DefaultPins is where the datapath is pinned unless an option says otherwise.
const DefaultPins = "/sys/fs/bpf/bpfacq"

// Limits of waiting, at a stop, for handshakes that take some microseconds each.
const (
	settleInterval = 20 * time.Millisecond
	settleTimeout  = time.Second
)

// Options say where the datapath goes.
type Options struct {
	// Cgroup is the folder whose processes' flows are acquired. Empty is the
	// root of the cgroup2 hierarchy.
	Cgroup string

	// Pins is a folder directly below a BPF file system, made if it is not
	// there. Empty is DefaultPins.
	Pins string

	// RelayCgroup is the folder of the process that listens for acquired
	// flows. Empty means that it lies below Cgroup.
	RelayCgroup string

	// OriginalDst makes the sockets of RelayCgroup answer SO_ORIGINAL_DST
	// with the original destination, as stock transparent proxies ask.
	OriginalDst bool

	// Packets loads the programs of the packet path, too. They are attached
	// later, by AttachUplink, AttachPair and AttachEnclave. Without it uplinks of
	// an earlier agent are detached.
	Packets bool

	// Filters attaches the packet path by clsact filters where the kernel has
	// tcx, too.
	Filters bool
}

// Datapath is the loaded, attached and pinned datapath of this host. It outlives
// the process.
type Datapath struct {
	Maps     *maps.Maps
	Features Features
	Cgroup   string // as attached
	Pins     string
	TookOver bool // an earlier agent's maps and links are used on

	pins    *pins
	packets *packets // nil without the packet path
}

// Load brings the datapath into force and returns it. What an earlier agent
// pinned is taken over without a gap; maps of another shape are replaced. The
// error wraps ErrLocked if another agent is running, and has a Remedy method
// where the host lacks something. Whatever happens in between, the host is left
// with the old state or with the new one.
func Load(opts Options) (*Datapath, error) {
	if opts.Cgroup == "" {
		root, err := Cgroup2Root()
		if err != nil {
			return nil, err
		}
		opts.Cgroup = root
	}
	opts.RelayCgroup = cmp.Or(opts.RelayCgroup, opts.Cgroup)
	for _, cgroup := range []*string{&opts.Cgroup, &opts.RelayCgroup} {
		if _, err := cgroupID(*cgroup); err != nil {
			return nil, err
		}
		// Two paths of one hierarchy are compared, so neither may be a link.
		resolved, err := filepath.EvalSymlinks(*cgroup)
		if err != nil {
			return nil, fmt.Errorf("resolve cgroup: %w", err)
		}
		*cgroup = resolved
	}
	opts.Pins = cmp.Or(opts.Pins, DefaultPins)
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, explain("raise the limit of locked memory", err)
	}

	p, err := openPins(opts.Pins)
	if err != nil {
		return nil, err
	}
	d := &Datapath{Cgroup: opts.Cgroup, Pins: opts.Pins, pins: p}
	if err := d.bring(opts); err != nil {
		os.Remove(opts.Pins) // stays where something is pinned
		d.Close()
		return nil, err
	}
	return d, nil
}

// bring puts the datapath into force. Pinned maps of the shape of this agent's
// are used on, with all that is in them.
func (d *Datapath) bring(opts Options) error {
	pinned, err := maps.OpenPinned(mapsDir(d.pins.live()), nil)
	if err != nil && !errors.Is(err, maps.ErrNotPinned) {
		return foreignPins("open pins of an earlier agent", err)
	}
	defer maps.CloseAll(pinned)

	objects, have, err := loadObjects(pinned)
	d.TookOver = pinned != nil
	if d.TookOver && otherShape(err) {
		objects, have, err = loadObjects(nil)
		d.TookOver = false
	}
	if err != nil {
		return err
	}
	defer objects.SocketPrograms.Close()
	if d.Maps, err = maps.New(objects.SocketMaps); err != nil {
		return err
	}
	d.Features = have

	if opts.Packets {
		if err := d.loadPackets(opts.Filters); err != nil {
			return err
		}
	}

	all := hooks(&objects.SocketPrograms, opts)
	here := d.TookOver
	if here {
		if here, err = attachedHere(all, linksDir(d.pins.live())); err != nil {
			return err
		}
	}
	if here {
		err = d.update(all)
	} else {
		err = d.replace(all)
	}
	if err != nil {
		return err
	}
	return d.keepUplinks()
}

// replace builds a whole new state beside whatever is live, and then swaps. The
// maps in it may be the live ones.
func (d *Datapath) replace(all []hook) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.pins.recover())
		}
	}()

	if err := d.pins.stage(); err != nil {
		return err
	}
	if err := d.Maps.Pin(mapsDir(d.pins.staged())); err != nil {
		return explain("pin maps", err)
	}
	for _, h := range all {
		if err := h.attach(linksDir(d.pins.staged())); err != nil {
			return err
		}
	}
	// Until the old state goes, packets meet the programs of both.
	linked, err := d.linkedUplinks()
	if err != nil {
		return err
	}
	for _, at := range linked {
		if err := at.attach(linksDir(d.pins.staged())); err != nil {
			return err
		}
	}
	return d.pins.commit()
}

// update keeps the live state and changes only what differs.
func (d *Datapath) update(all []hook) error {
	links := linksDir(d.pins.live())
	if err := os.MkdirAll(links, 0o755); err != nil { // it may have gone with its links
		return fmt.Errorf("create folder of pins: %w", err)
	}
	wanted := make(map[string]bool)
	for _, h := range all {
		if err := h.update(links); err != nil {
			return err
		}
		wanted[h.pinName] = true
	}
	linked, err := d.linkedUplinks()
	if err != nil {
		return err
	}
	for _, at := range linked {
		wanted[at.pinName()] = true
	}
	return detachOthers(links, wanted)
}

// Hooks describes what is attached, as the pins have it.
func (d *Datapath) Hooks() ([]Hook, error) { return Hooks(d.Pins) }

// Hooks describes what is attached, as the pins in a folder have it, and the
// filters of this network namespace.
func Hooks(pinDir string) ([]Hook, error) {
	links := linksDir(filepath.Join(pinDir, "live"))
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, explain("list pinned links", err)
	}
	var all []Hook
	for _, entry := range entries {
		h, err := readHook(filepath.Join(links, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // uplinks go at any time
		}
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	filters, err := filterHooks()
	return append(all, filters...), err
}

// Close releases the datapath and its lock. Unless it was detached, the host
// keeps it.
func (d *Datapath) Close() error {
	err := d.packets.close()
	if d.Maps != nil {
		err = errors.Join(err, d.Maps.Close())
	}
	return errors.Join(err, d.pins.Close())
}

// DetachSockets is the first step of Detach: connect() and sendmsg() are left alone
// from here on. When it returns no flow is on its way to the listeners any more.
func (d *Datapath) DetachSockets() error {
	if !d.isHere() {
		return nil
	}
	if err := d.detachSenders(); err != nil {
		return err
	}
	return d.settle()
}

// detachSenders detaches what looks at new flows.
func (d *Datapath) detachSenders() error {
	links := linksDir(d.pins.live())
	for _, program := range []string{
		bpf.SocketProgBpfacqConnect4, bpf.SocketProgBpfacqConnect6,
		bpf.SocketProgBpfacqSend4, bpf.SocketProgBpfacqSend6,
	} {
		if err := detachLink(filepath.Join(links, maps.PinName(program))); err != nil {
			return err
		}
	}
	return nil
}

// Detach removes the datapath from the host. New flows go direct from its first
// step on, and packets of acquired ones, too, so those of enclaves are done before;
// what hands a flow over goes when no handshake is under way any more.
// The maps stay open until Close, so that accepted flows can still be told where
// they belong.
func (d *Datapath) Detach() error {
	if !d.isHere() {
		return nil
	}
	if err := d.detachSenders(); err != nil {
		return err
	}
	for _, index := range d.Uplinks() {
		if err := d.DetachUplink(index); err != nil {
			return err
		}
	}
	settled := d.settle()
	_, err := removeFilters(anyFilter)
	return errors.Join(settled, d.pins.detach(), err)
}

// isHere reports whether the folder of pins is this datapath's. Somebody may have
// removed it; what is there then is another agent's.
func (d *Datapath) isHere() bool { return isAt(d.pins.lock, d.pins.dir) }

// settle waits until the handshakes with the listener that were under way have
// ended. One that does not, with a listener that is stuck, is not waited for.
func (d *Datapath) settle() error {
	limit := time.After(settleTimeout)
	look := time.NewTicker(settleInterval)
	defer look.Stop()
	for {
		// A connect() that the hook saw just before it went needs a moment to
		// offer its record, so the first look comes after a while, too.
		select {
		case <-look.C:
		case <-limit:
			return nil
		}
		if busy, err := d.Maps.Handshakes(); err != nil || !busy {
			return err
		}
	}
}

// Detach removes every trace of a datapath from a pin folder and the kernel. It
// needs no agent, and does nothing, successfully, if there is no such folder and
// no filter in this network namespace. It reports whether there was something to
// remove. The error wraps ErrLocked if an agent is running.
func Detach(pinDir string) (bool, error) {
	pinDir = cmp.Or(pinDir, DefaultPins)
	if _, err := os.Stat(pinDir); errors.Is(err, fs.ErrNotExist) {
		removed, err := removeFilters(anyFilter)
		return removed > 0, err
	}
	if err := checkBPFFS(filepath.Dir(pinDir)); err != nil {
		return false, err
	}
	p, err := lockPins(pinDir)
	if err != nil {
		return false, err
	}
	_, err = removeFilters(anyFilter)
	return true, errors.Join(p.detach(), err, p.Close())
}

// detachOthers detaches the links in a folder that are not wanted. No folder is
// fine.
func detachOthers(links string, wanted map[string]bool) error {
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, entry := range entries {
		if wanted[entry.Name()] {
			continue
		}
		if err := detachLink(filepath.Join(links, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// detachLink detaches a pinned link and removes the pin. None is fine, and of
// something else that is pinned there only the pin goes.
func detachLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return explain("open pinned link", err)
	case err != nil:
		return os.Remove(path)
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, link.ErrNotSupported) {
		return explain("detach link", err)
	}
	return l.Unpin()
}
