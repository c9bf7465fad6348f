package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// leaveStale leaves a socket that nobody answers, as a killed agent does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	stat, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return stat.Mode()
}

func TestListenMakesFolderAndSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bpfacq", "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := mode(t, path); got != fs.ModeSocket|0o660 {
		t.Errorf("mode of the socket is %v, want 0660", got)
	}
	if got := mode(t, filepath.Dir(path)); got != fs.ModeDir|0o755 {
		t.Errorf("mode of the folder is %v, want 0755", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left after Close: %v", err)
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	leaveStale(t, path)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenLeavesALiveAgentAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if l, err := Listen(path); l != nil || !errors.Is(err, ErrHeld) {
		t.Errorf("Listen = %v, %v, want ErrHeld", l, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first agent is gone: %v", err)
	}
	conn.Close()
}

// An agent that hangs accepts nobody, and is alive.
func TestListenLeavesAnAgentWithAFullQueueAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	stream := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	hung := stream()
	if err := errors.Join(unix.Bind(hung, &unix.SockaddrUnix{Name: path}), unix.Listen(hung, 0)); err != nil {
		t.Fatal(err)
	}
	var err error
	for waiting := 0; err == nil && waiting < 100; waiting++ {
		err = unix.Connect(stream(), &unix.SockaddrUnix{Name: path})
	}
	if err != unix.EAGAIN {
		t.Fatalf("fill the queue: %v, want %v", err, unix.EAGAIN)
	}
	if l, err := Listen(path); l != nil || !errors.Is(err, ErrHeld) {
		t.Errorf("Listen = %v, %v, want ErrHeld", l, err)
	}
	if got := mode(t, path).Type(); got != fs.ModeSocket {
		t.Errorf("the file is %v, want the socket", got)
	}
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); l != nil || !errors.Is(err, ErrNotSocket) {
		t.Errorf("Listen = %v, %v, want ErrNotSocket", l, err)
	}
	if b, err := os.ReadFile(path); string(b) != "x" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestOfManyThatListenAtOnceOneWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	leaveStale(t, path)
	const agents = 16
	var (
		wg        sync.WaitGroup
		listeners = make(chan net.Listener, agents)
	)
	for range agents {
		wg.Go(func() {
			l, err := Listen(path)
			switch {
			case err == nil:
				listeners <- l
			case !errors.Is(err, ErrHeld):
				t.Errorf("Listen: %v, want ErrHeld", err)
			}
		})
	}
	wg.Wait()
	close(listeners)
	won := 0
	for l := range listeners {
		won++
		l.Close()
	}
	if won != 1 {
		t.Errorf("%d agents listen, want 1", won)
	}
}
