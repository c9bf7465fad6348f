package loader

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// DefaultPins is where the datapath is pinned unless an option says otherwise.
const DefaultPins = "/sys/fs/bpf/bpfacq"

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
}

// Datapath is the loaded, attached and pinned datapath of this host. It outlives
// the process.
type Datapath struct {
	Maps     *maps.Maps
	Features Features
	Cgroup   string // as attached
	Pins     string
	TookOver bool // an earlier agent's maps and links are used on

	pins *pins
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
	for _, cgroup := range []string{opts.Cgroup, cmp.Or(opts.RelayCgroup, opts.Cgroup)} {
		if _, err := cgroupID(cgroup); err != nil {
			return nil, err
		}
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
		d.Close()
		return nil, err
	}
	return d, nil
}

// bring puts the datapath into force, by taking over where that is possible.
func (d *Datapath) bring(opts Options) error {
	pinned, err := maps.OpenPinned(mapsDir(d.pins.live()), nil)
	if errors.Is(err, maps.ErrNotPinned) {
		return d.create(opts)
	}
	if err != nil {
		return explain("open pins of an earlier agent", err)
	}
	defer maps.CloseAll(pinned)

	err = d.takeOver(opts, pinned)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return d.create(opts)
	}
	return err
}

// create builds a whole new state beside whatever is live, and then swaps.
func (d *Datapath) create(opts Options) error {
	objects, have, err := loadObjects(nil)
	if err != nil {
		return err
	}
	if err := d.adopt(objects, have); err != nil {
		return err
	}
	defer objects.SocketPrograms.Close()

	if err := d.pins.stage(); err != nil {
		return err
	}
	if err := d.Maps.Pin(mapsDir(d.pins.staged())); err != nil {
		return explain("pin maps", err)
	}
	for _, h := range hooks(&objects.SocketPrograms, opts) {
		if err := h.attachNew(linksDir(d.pins.staged())); err != nil {
			return errors.Join(err, os.RemoveAll(d.pins.staged()))
		}
	}
	return d.pins.commit()
}

// takeOver keeps the pinned maps and links, and changes only what differs.
func (d *Datapath) takeOver(opts Options, pinned map[string]*ebpf.Map) error {
	objects, have, err := loadObjects(pinned)
	if err != nil {
		return err
	}
	if err := d.adopt(objects, have); err != nil {
		return err
	}
	defer objects.SocketPrograms.Close()

	links := linksDir(d.pins.live())
	wanted := make(map[string]bool)
	for _, h := range hooks(&objects.SocketPrograms, opts) {
		if err := h.takeOver(links); err != nil {
			return err
		}
		wanted[h.pinName] = true
	}
	if err := detachOthers(links, wanted); err != nil {
		return err
	}
	d.TookOver = true
	return nil
}

// adopt takes the maps of loaded objects into the datapath.
func (d *Datapath) adopt(objects *bpf.SocketObjects, have Features) error {
	m, err := maps.New(objects.SocketMaps)
	if err != nil {
		return errors.Join(err, objects.SocketPrograms.Close())
	}
	d.Maps, d.Features = m, have
	return nil
}

// Hooks describes what is attached, as the pins have it.
func (d *Datapath) Hooks() ([]Hook, error) { return Hooks(d.Pins) }

// Hooks describes what is attached, as the pins in a folder have it.
func Hooks(pinDir string) ([]Hook, error) {
	links := linksDir(filepath.Join(pinDir, "live"))
	entries, err := os.ReadDir(links)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("list pinned links", err)
	}
	var all []Hook
	for _, entry := range entries {
		h, err := readHook(filepath.Join(links, entry.Name()))
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	return all, nil
}

// Close releases the datapath and its lock. Unless it was detached, the host
// keeps it.
func (d *Datapath) Close() error {
	var err error
	if d.Maps != nil {
		err = d.Maps.Close()
	}
	return errors.Join(err, d.pins.Close())
}

// Detach removes the datapath from the host. The maps stay open until Close, so
// that flows on their way can still be told where they belong.
func (d *Datapath) Detach() error { return d.pins.detach() }

// Detach removes every trace of a datapath from a pin folder and the kernel. It
// needs no agent, and does nothing, successfully, if there is no such folder. It
// reports whether there was something to remove. The error wraps ErrLocked if an
// agent is running.
func Detach(pinDir string) (bool, error) {
	pinDir = cmp.Or(pinDir, DefaultPins)
	if _, err := os.Stat(pinDir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	p, err := lockPins(pinDir)
	if err != nil {
		return false, err
	}
	return true, errors.Join(p.detach(), p.Close())
}

// detach stops every link before it removes a pin: a file descriptor that
// somebody holds would otherwise keep a program attached.
func (p *pins) detach() error {
	for _, state := range []string{p.live(), p.staged(), p.stale()} {
		if err := detachOthers(linksDir(state), nil); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
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

// detachLink detaches a pinned link and removes the pin. None is fine.
func detachLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return explain("open pinned link", err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, link.ErrNotSupported) {
		return explain("detach link", err)
	}
	return l.Unpin()
}
