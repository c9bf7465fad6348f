package synthetic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is what a log needs of an open file.
type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

// ledger is the log on disk. It is for one goroutine.
type ledger struct {
	path   string
	folder *os.File // holds the lock
	open   func(path string, flag int) (file, error)

	// file is nil when it is not known what the log ends with: then it must
	// be written anew.
	file file
	size int64
}

// openLedger locks the folder of the log, and leaves the log itself alone.
func openLedger(path string, open func(string, int) (file, error)) (*ledger, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open folder of synthetic addresses: %w", err)
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		folder.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("lock %q: %w", filepath.Dir(path), err)
	}
	if open == nil {
		open = func(path string, flag int) (file, error) { return os.OpenFile(path, flag, 0o600) }
	}
	return &ledger{path: path, folder: folder, open: open}, nil
}

// close ends the use of the log. Everything is on disk already.
func (l *ledger) close() error {
	l.abandon()
	return l.folder.Close()
}

// abandon leaves the log to be written anew.
func (l *ledger) abandon() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// replay reads the log. One that is absent has no headline.
func (l *ledger) replay(found func(record)) (*survey, error) {
	text, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return &survey{headless: true}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open synthetic addresses: %w", err)
	}
	defer text.Close()
	s, err := replay(text, found)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", l.path, err)
	}
	return s, nil
}

// resume goes on with the log as it was read.
func (l *ledger) resume(size int64) (err error) {
	l.file, err = l.open(l.path, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		l.file = nil // not an interface around nothing
		return fmt.Errorf("open synthetic addresses: %w", err)
	}
	l.size = size
	return nil
}

// append puts lines on disk, all or none as far as the pool will ever know.
func (l *ledger) append(lines []byte) error {
	if _, err := l.file.Write(lines); err != nil {
		if l.file.Truncate(l.size) != nil {
			l.abandon()
		}
		return fmt.Errorf("record synthetic address: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		// The kernel may have dropped the pages. Another fsync would not say.
		l.abandon()
		return fmt.Errorf("record synthetic address: %w", err)
	}
	l.size += int64(len(lines))
	return nil
}

// rewrite replaces the log by one that has only the given records, or leaves it
// as it is. Should a crash come in between, either is on disk, and they say the
// same.
func (l *ledger) rewrite(records iter.Seq[record]) error {
	fresh := l.path + ".new"
	next, err := l.open(fresh, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("write synthetic addresses: %w", err)
	}
	size, err := writeRecords(next, records)
	if err == nil {
		err = os.Rename(fresh, l.path)
	}
	if err != nil {
		next.Close()
		os.Remove(fresh)
		return fmt.Errorf("write synthetic addresses: %w", err)
	}
	l.abandon()
	if err := l.folder.Sync(); err != nil {
		// After a crash the old log might be back, without what is yet to come.
		next.Close()
		return fmt.Errorf("write folder of synthetic addresses: %w", err)
	}
	l.file, l.size = next, size
	return nil
}

// writeRecords puts a whole log on disk.
func writeRecords(f file, records iter.Seq[record]) (size int64, err error) {
	w := bufio.NewWriterSize(f, 64<<10)
	write := func(line string) {
		n, _ := w.WriteString(line) // Flush says what went wrong
		size += int64(n)
	}
	write(headline())
	for r := range records {
		write(r.line())
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	return size, f.Sync()
}

// keep leaves the log as it is now under another name, for people.
func (l *ledger) keep() error {
	kept := l.path + ".damaged"
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the last damaged log: %w", err)
	}
	if err := os.Link(l.path, kept); err != nil {
		return fmt.Errorf("keep damaged log: %w", err)
	}
	return nil
}
