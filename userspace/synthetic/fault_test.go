package synthetic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var errBroken = errors.New("break disk")

func TestNameIsRefusedWhileTheDiskIsFull(t *testing.T) {
	for name, fails := range map[string][]string{
		"write":              {"write"},
		"write and truncate": {"write", "truncate"},
		"sync":               {"sync"},
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlace(t, wide)
			p := pl.pool(t)
			wantAssigned(t, p, "a.example", "6.6.0.1")
			pl.disk.fail(unix.ENOSPC, fails...)
			var group sync.WaitGroup
			for i := range 10 {
				group.Go(func() { wantRefused(t, p, fmt.Sprintf("refused%d", i), unix.ENOSPC) })
			}
			group.Wait()
			if err := p.Stats().LogErr; !errors.Is(err, unix.ENOSPC) {
				t.Errorf("the pool says %v", err)
			}
			wantAssigned(t, p, "A.example", "6.6.0.1") // is known
			wantNames(t, p, "6.6.0.1 a.example")

			pl.disk.set(nil)
			if name != "write" { // the log is written anew, but not at once after that failed
				p.mu.Lock()
				p.elapsed += retryPause
				p.mu.Unlock()
			}
			got := assign(t, p, "b.example")
			want := []string{"6.6.0.1 a.example", got + " b.example"}
			wantNames(t, p, want...)
			s := p.Stats()
			closePool(t, p)
			if want := logOf(want...); pl.text(t) != want || s.LogSize != int64(len(want)) || s.LogErr != nil {
				t.Errorf("%+v; the log is\n%s", s, pl.text(t))
			}
			wantNames(t, pl.pool(t), want...)
			if pl.said.Len() > 0 {
				t.Errorf("the pool said %s", pl.said)
			}
		})
	}
}

func TestCutWriteLeavesNothing(t *testing.T) {
	pl := newPlace(t, wide)
	p := pl.pool(t)
	assign(t, p, "a.example")
	text := pl.text(t)
	pl.disk.fail(unix.ENOSPC, "write")
	for i := range 5 {
		wantRefused(t, p, fmt.Sprintf("refused%d", i), unix.ENOSPC)
		if pl.text(t) != text {
			t.Errorf("the log is\n%s", pl.text(t))
		}
	}
}

func TestBrokenLogIsTriedAgainAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, wide)
		p := pl.pool(t)
		pl.disk.fail(unix.EIO, "sync")
		wantRefused(t, p, "a", unix.EIO)
		pl.disk.fail(unix.EROFS, "create")
		wantRefused(t, p, "a", unix.EROFS)
		pl.disk.fail(unix.ENOSPC, "create")
		wantRefused(t, p, "a", unix.EROFS)
		pl.disk.set(nil)
		wantRefused(t, p, "a", unix.EROFS)
		time.Sleep(retryPause)
		got := assign(t, p, "a")
		wantNames(t, p, got+" a")
	})
}

func TestKnownNamesAreServedFromABrokenDisk(t *testing.T) {
	for name, text := range map[string]string{
		"clean":   logOf("6.6.0.1 a", "6.6.0.2 b"),
		"damaged": logOf("6.6.0.1 a") + "damage\n" + sealed("6.6.0.2 b"),
		"torn":    logOf("6.6.0.1 a", "6.6.0.2 b") + "1",
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlace(t, wide)
			pl.write(t, text)
			pl.disk.fail(unix.EROFS, "open", "create")
			p := pl.pool(t)
			wantAssigned(t, p, "a", "6.6.0.1")
			wantRefused(t, p, "c", unix.EROFS)
			wantRefused(t, p, "d", unix.EROFS)
			wantNames(t, p, "6.6.0.1 a", "6.6.0.2 b")
			if err := p.Stats().LogErr; !errors.Is(err, unix.EROFS) {
				t.Errorf("the pool says %v", err)
			}
			closePool(t, p)
			if !strings.Contains(pl.said.String(), "not recorded") || pl.text(t) != text {
				t.Errorf("the pool said %s; the log is\n%s", pl.said, pl.text(t))
			}
		})
	}
}

func TestLogGoesOnWhenItIsNotCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, tiny)
		pl.slack = 1
		p := pl.pool(t)
		pl.disk.fail(unix.ENOSPC, "create")
		for i := range 100 {
			assign(t, p, fmt.Sprintf("n%d", i))
			time.Sleep(Rest)
		}
		size := p.Stats().LogSize
		if lines := strings.Count(pl.text(t), "\n"); lines != 101 {
			t.Errorf("the log has %d lines, want 101", lines)
		}
		pl.disk.set(nil)
		assign(t, p, "last")
		if now := p.Stats().LogSize; now > size/5 {
			t.Errorf("the log has %d bytes, and had %d", now, size)
		}
		closePool(t, p)
		if !strings.Contains(pl.said.String(), `level=WARN msg="compact synthetic addresses"`) {
			t.Errorf("the pool said %s", pl.said)
		}
	})
}

// TestLogThatMayNotBeFoundAgainIsWrittenAnew is a disk that fails between the
// rename and its record in the folder.
func TestLogThatMayNotBeFoundAgainIsWrittenAnew(t *testing.T) {
	pl := newPlace(t, wide)
	pl.write(t, logOf("6.6.0.1 a"))
	l, err := openLedger(pl.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.resume(int64(len(pl.text(t)))); err != nil {
		t.Fatal(err)
	}
	folder := l.folder
	l.folder, err = os.Open(os.DevNull) // has no fsync
	if err != nil {
		t.Fatal(err)
	}
	defer func(null *os.File) { null.Close() }(l.folder)
	records := func(yield func(record) bool) { yield(record{netip.MustParseAddr("6.6.0.2"), "b"}) }
	if err := l.rewrite(records); !errors.Is(err, unix.EINVAL) || l.file != nil {
		t.Errorf("rewrite: %v; the log is still in use: %t", err, l.file != nil)
	}
	l.folder = folder
	if err := l.rewrite(records); err != nil || l.file == nil || pl.text(t) != logOf("6.6.0.2 b") {
		t.Errorf("rewrite: %v; the log is\n%s", err, pl.text(t))
	}
}

func TestDamagedLogThatCannotBeKeptIsLost(t *testing.T) {
	pl := newPlace(t, wide)
	pl.write(t, "damage\n"+logOf("6.6.0.1 a"))
	if err := os.MkdirAll(pl.Path+".damaged/full", 0o700); err != nil {
		t.Fatal(err)
	}
	p := pl.pool(t)
	wantNames(t, p, "6.6.0.1 a")
	closePool(t, p)
	if want := logOf("6.6.0.1 a"); pl.text(t) != want {
		t.Errorf("the log is\n%s", pl.text(t))
	}
	if !strings.Contains(pl.said.String(), "remove the last damaged log") {
		t.Errorf("the pool said %s", pl.said)
	}
}
