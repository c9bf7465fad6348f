package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The pin folder, which is also the lock:
//
//	bpfacq/            flock: one writer at a time
//	  live/maps/…      what is in force
//	  live/links/…
//	  staged/…         being built; renamed to live when whole
//	  stale/…          was live; being removed
type pins struct {
	dir  string
	lock *os.File
}

func (p *pins) live() string   { return filepath.Join(p.dir, "live") }
func (p *pins) staged() string { return filepath.Join(p.dir, "staged") }
func (p *pins) stale() string  { return filepath.Join(p.dir, "stale") }

// MapsDir is the folder of the pinned maps below a pin folder.
func MapsDir(pinDir string) string { return filepath.Join(pinDir, "live", "maps") }

func linksDir(state string) string { return filepath.Join(state, "links") }
func mapsDir(state string) string  { return filepath.Join(state, "maps") }

// openPins makes the folder if need be and takes its lock. What a process left
// half done is removed.
func openPins(dir string) (*pins, error) {
	if err := checkBPFFS(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, explain("create pin folder", err)
	}
	p, err := lockPins(dir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(p.staged()), os.RemoveAll(p.stale())); err != nil {
		p.Close()
		return nil, fmt.Errorf("remove unfinished pins: %w", err)
	}
	return p, nil
}

// lockPins takes the lock of an existing pin folder.
func lockPins(dir string) (*pins, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, explain("open pin folder", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = withRemedy(fmt.Errorf("lock %s: %w", dir, ErrLocked),
			"stop it first (systemctl stop bpfacq), or choose another folder with kernel.pins")
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &pins{dir, lock}, nil
}

// Close gives the lock back.
func (p *pins) Close() error { return p.lock.Close() }

// stage makes the empty folders of a state in the making.
func (p *pins) stage() error {
	for _, dir := range []string{p.staged(), mapsDir(p.staged()), linksDir(p.staged())} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("create folder of pins: %w", err)
		}
	}
	return nil
}

// commit puts the staged state in the place of the live one. Removing the old
// pins detaches the old programs.
func (p *pins) commit() error {
	if err := os.Rename(p.live(), p.stale()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set the old pins aside: %w", err)
	}
	if err := os.Rename(p.staged(), p.live()); err != nil {
		return fmt.Errorf("put the new pins in place: %w", err)
	}
	return os.RemoveAll(p.stale())
}

// checkBPFFS reports whether path lies on a BPF file system.
func checkBPFFS(path string) error {
	var stat unix.Statfs_t
	err := unix.Statfs(path, &stat)
	if err == nil && stat.Type != unix.BPF_FS_MAGIC {
		err = ErrNotBPFFS
	}
	if err != nil {
		return withRemedy(fmt.Errorf("pin below %q: %w", path, err),
			"mount one (mount -t bpf bpf /sys/fs/bpf), or name a folder directly below one with kernel.pins")
	}
	return nil
}
