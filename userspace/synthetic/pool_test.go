package synthetic

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	wide = netip.MustParsePrefix("6.6.0.0/16")
	tiny = netip.MustParsePrefix("6.6.0.0/29") // six names
	ula  = netip.MustParsePrefix("fd00:6::/64")
)

// place is where a test keeps a pool, and what the pool says there.
type place struct {
	Options
	said *bytes.Buffer // may be read when no pool is open
	disk *disk
}

func newPlace(t *testing.T, ipv4 netip.Prefix) *place {
	t.Helper()
	said, d := new(bytes.Buffer), new(disk)
	return &place{
		Options: Options{
			Path: filepath.Join(t.TempDir(), "synthetic.log"), IPv4: ipv4,
			Log: slog.New(slog.NewTextHandler(said, nil)), open: d.open,
		},
		said: said, disk: d,
	}
}

// pool opens the pool until the test ends, or Close is called on it.
func (pl *place) pool(t *testing.T) *Pool {
	t.Helper()
	p, err := Open(pl.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, p) })
	return p
}

func closePool(t *testing.T, p *Pool) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func (pl *place) text(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(pl.Path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (pl *place) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(pl.Path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logOf is the text of a log of pairs of address and name.
func logOf(pairs ...string) string {
	var text strings.Builder
	text.WriteString(headline())
	for _, pair := range pairs {
		text.WriteString(sealed(pair))
	}
	return text.String()
}

func assign(t *testing.T, p *Pool, name string) string {
	t.Helper()
	addr, err := p.Assign(t.Context(), name)
	if err != nil {
		t.Fatalf("assign %s: %v", name, err)
	}
	return addr.IPv4.String()
}

func wantAssigned(t *testing.T, p *Pool, name, want string) {
	t.Helper()
	if got := assign(t, p, name); got != want {
		t.Errorf("%s has %s, want %s", name, got, want)
	}
}

func wantRefused(t *testing.T, p *Pool, name string, want error) {
	t.Helper()
	if addr, err := p.Assign(t.Context(), name); !errors.Is(err, want) {
		t.Errorf("assign %s: %v, %v; want the error %v", name, addr, err, want)
	}
}

// wantNames compares the whole pool with pairs of address and name, and checks
// that all ways to ask for them agree.
func wantNames(t *testing.T, p *Pool, want ...string) {
	t.Helper()
	var got []string
	for name, addr := range p.All() {
		got = append(got, addr.IPv4.String()+" "+name)
		if owner, ok := p.Name(addr.IPv4); !ok || owner != name {
			t.Errorf("%s is that of %q, %t; want %s", addr.IPv4, owner, ok, name)
		}
		if found, ok := p.Lookup(name); !ok || found != addr {
			t.Errorf("%s has %v, %t; want %v", name, found, ok, addr)
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if used := p.Stats().Used; used != len(want) {
		t.Errorf("%d names are counted, want %d", used, len(want))
	}
}

// disk is a disk on which things go wrong.
type disk struct {
	mu    sync.Mutex
	fault func(operation string) error // nil: none
	lazy  bool                         // nothing is written through: for tests that do much
	syncs int
}

// set chooses what fails from now on.
func (d *disk) set(fault func(operation string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// fail lets operations fail from now on.
func (d *disk) fail(err error, operations ...string) {
	d.set(func(operation string) error {
		for _, o := range operations {
			if o == operation {
				return fmt.Errorf("%s: %w", operation, err)
			}
		}
		return nil
	})
}

func (d *disk) meet(operation string) error {
	d.mu.Lock()
	fault := d.fault
	if operation == "sync" {
		d.syncs++
	}
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(operation)
}

func (d *disk) open(path string, flag int) (file, error) {
	operation := "open"
	if flag&os.O_CREATE != 0 {
		operation = "create"
	}
	if err := d.meet(operation); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, flag, 0o600)
	return &diskFile{f, d}, err
}

type diskFile struct {
	*os.File
	disk *disk
}

// Write, when it fails, has written a part.
func (f *diskFile) Write(text []byte) (int, error) {
	if err := f.disk.meet("write"); err != nil {
		n, _ := f.File.Write(text[:len(text)*2/3])
		return n, err
	}
	return f.File.Write(text)
}

func (f *diskFile) Sync() error {
	if err := f.disk.meet("sync"); err != nil {
		return err
	}
	if f.disk.lazy {
		return nil
	}
	return f.File.Sync()
}

func (f *diskFile) Truncate(size int64) error {
	if err := f.disk.meet("truncate"); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// clock is a wall clock without a monotonic part.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}
