// Package maps gives typed access to every map of the datapath. It is the only
// Go code that knows how addresses, ports and prefixes lie in kernel memory.
package maps

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/bpfacq/bpfacq/bpf"
)

// Errors of this package.
var (
	// ErrNotPinned says that a folder holds no maps of a datapath.
	ErrNotPinned = errors.New("no pinned maps")

	// ErrNoPolicy says that no generation was ever activated.
	ErrNoPolicy = errors.New("no policy is loaded")

	// ErrNoRecord says that a socket carries no record of an acquired flow.
	ErrNoRecord = errors.New("socket has no flow record")
)

// prefix starts the name of every map and program, so that they are told apart
// in lists of the whole host.
const prefix = "bpfacq_"

// Maps are the maps of one loaded datapath.
type Maps struct {
	objects bpf.SocketMaps
	active  *ebpf.Memory // nil when opened for reading
	agent   *ebpf.Memory // nil when opened for reading
	inner   func() (map[string]*ebpf.MapSpec, error)

	mu   sync.Mutex // held while a slot, or what lies in one, is written
	live room       // of the generation that this process stored last

	viewing sync.RWMutex
	view    *View // what Match reads, nil until then
}

// New wraps the maps of a loaded collection and takes ownership of them, also
// when it returns an error.
func New(objects bpf.SocketMaps) (*Maps, error) {
	m := &Maps{objects: objects, inner: sync.OnceValues(innerSpecs)}
	var err error
	if m.active, err = objects.BpfacqActive.Memory(); err != nil {
		return nil, errors.Join(fmt.Errorf("map the active word: %w", err), m.Close())
	}
	if m.agent, err = objects.BpfacqAgent.Memory(); err != nil {
		return nil, errors.Join(fmt.Errorf("map the agent record: %w", err), m.Close())
	}
	return m, nil
}

// Open opens the maps pinned in dir for reading. It needs no agent. The error
// is ErrNotPinned if there are none.
func Open(dir string) (*Maps, error) {
	pinned, err := OpenPinned(dir, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	var m Maps
	for name, slot := range byName(&m.objects) {
		*slot = pinned[name]
	}
	return &m, nil
}

// OpenPinned opens every map pinned in dir, all or none, and returns them by
// their names in the object file. The caller closes them.
func OpenPinned(dir string, opts *ebpf.LoadPinOptions) (_ map[string]*ebpf.Map, err error) {
	pinned := make(map[string]*ebpf.Map)
	defer func() {
		if err != nil {
			CloseAll(pinned)
		}
	}()

	for name := range byName(&bpf.SocketMaps{}) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, PinName(name)), opts)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w in %s", ErrNotPinned, dir)
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		pinned[name] = m
	}
	return pinned, nil
}

// CloseAll closes what OpenPinned returned.
func CloseAll(pinned map[string]*ebpf.Map) {
	for _, m := range pinned {
		m.Close()
	}
}

// Pin pins every map into dir, which must be an empty folder of a bpffs.
func (m *Maps) Pin(dir string) error {
	for name, slot := range byName(&m.objects) {
		if err := (*slot).Pin(filepath.Join(dir, PinName(name))); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// Close releases the maps. Pinned ones live on.
func (m *Maps) Close() error {
	errs := []error{m.closeView()}
	for _, slot := range byName(&m.objects) {
		errs = append(errs, (*slot).Close())
	}
	return errors.Join(errs...)
}

// PinName is the file name of the pin of a map or program.
func PinName(name string) string { return strings.TrimPrefix(name, prefix) }

// byName lists the fields of objects under their names in the object file. A
// test compares it with the specification, so that none is forgotten.
func byName(objects *bpf.SocketMaps) map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.SocketMapBpfacqAccept:   &objects.BpfacqAccept,
		bpf.SocketMapBpfacqActive:   &objects.BpfacqActive,
		bpf.SocketMapBpfacqAgent:    &objects.BpfacqAgent,
		bpf.SocketMapBpfacqChannel:  &objects.BpfacqChannel,
		bpf.SocketMapBpfacqClient:   &objects.BpfacqClient,
		bpf.SocketMapBpfacqCounter:  &objects.BpfacqCounter,
		bpf.SocketMapBpfacqDevice:   &objects.BpfacqDevice,
		bpf.SocketMapBpfacqEntry:    &objects.BpfacqEntry,
		bpf.SocketMapBpfacqExempt:   &objects.BpfacqExempt,
		bpf.SocketMapBpfacqFragment: &objects.BpfacqFragment,
		bpf.SocketMapBpfacqHandoff:  &objects.BpfacqHandoff,
		bpf.SocketMapBpfacqName:     &objects.BpfacqName,
		bpf.SocketMapBpfacqOpening:  &objects.BpfacqOpening,
		bpf.SocketMapBpfacqPair:     &objects.BpfacqPair,
		bpf.SocketMapBpfacqPeer:     &objects.BpfacqPeer,
		bpf.SocketMapBpfacqPorts:    &objects.BpfacqPorts,
		bpf.SocketMapBpfacqPrefix4:  &objects.BpfacqPrefix4,
		bpf.SocketMapBpfacqPrefix6:  &objects.BpfacqPrefix6,
		bpf.SocketMapBpfacqQuery:    &objects.BpfacqQuery,
		bpf.SocketMapBpfacqRecent:   &objects.BpfacqRecent,
		bpf.SocketMapBpfacqServer:   &objects.BpfacqServer,
		bpf.SocketMapBpfacqSource:   &objects.BpfacqSource,
		bpf.SocketMapBpfacqTag:      &objects.BpfacqTag,
		bpf.SocketMapBpfacqUplink:   &objects.BpfacqUplink,
		bpf.SocketMapBpfacqVerdict:  &objects.BpfacqVerdict,
	}
}
