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
// half done is undone.
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
	if err := p.recover(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// recover undoes a replacement that was broken off: before its second rename the
// old state comes back, after it only the remains go.
func (p *pins) recover() error {
	if _, err := os.Stat(p.live()); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(p.stale(), p.live()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put the old pins back: %w", err)
		}
	}
	return errors.Join(discard(p.staged()), discard(p.stale()))
}

// discard detaches the links of a state and removes its pins. To remove the pins
// alone would not do: the kernel detaches some time after that, and not at all
// while somebody holds the link open.
func discard(state string) error {
	if err := detachOthers(linksDir(state), nil); err != nil {
		return err
	}
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
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
	if err == nil && !isAt(lock, dir) {
		err = fmt.Errorf("lock %s, which is being removed: %w", dir, ErrLocked)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &pins{dir, lock}, nil
}

// isAt reports whether an open folder is still to be found at its path. A lock on
// one that an agent has removed meanwhile keeps nobody out.
func isAt(folder *os.File, path string) bool {
	opened, openedErr := folder.Stat()
	found, foundErr := os.Stat(path)
	return openedErr == nil && foundErr == nil && os.SameFile(opened, found)
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

// commit puts the staged state in the place of the live one, which it discards.
func (p *pins) commit() error {
	if err := os.Rename(p.live(), p.stale()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set the old pins aside: %w", err)
	}
	if err := os.Rename(p.staged(), p.live()); err != nil {
		return fmt.Errorf("put the new pins in place: %w", err)
	}
	return discard(p.stale())
}

// detach removes everything. Nothing goes but what this package pins, whatever
// folder the configuration names.
func (p *pins) detach() error {
	for _, state := range []string{p.live(), p.staged(), p.stale()} {
		if err := discard(state); err != nil {
			return err
		}
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove pin folder: %w", err)
	}
	return nil
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
