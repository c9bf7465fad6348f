package agent

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDirectDatagramsGoBothWaysUntilClose(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDirectDatagrams(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Send([][]byte{[]byte("one"), {}, []byte("two")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "", "two"} {
		buffer := make([]byte, 16)
		n, from, err := server.ReadFrom(buffer)
		if string(buffer[:n]) != want || err != nil {
			t.Fatalf("got %q, %v, want %q", buffer[:n], err, want)
		}
		if _, err := server.WriteTo(append([]byte("re: "), want...), from); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	ended := make(chan error)
	go func() {
		ended <- d.Receive(func(batch [][]byte) {
			for _, payload := range batch {
				got = append(got, string(payload))
			}
			if len(got) == 3 {
				d.Close()
			}
		})
	}()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive: %v, want ErrClosed", err)
	}
	if want := []string{"re: one", "re: ", "re: two"}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	if err := d.Send([][]byte{[]byte("late")}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v, want ErrClosed", err)
	}
}

func TestDirectDatagramsDoNotWaitForRoom(t *testing.T) {
	// Of two sockets of which one reads nothing, the other one's room ends.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	full, silent := os.NewFile(uintptr(pair[0]), "full"), os.NewFile(uintptr(pair[1]), "silent")
	defer full.Close()
	defer silent.Close()
	raw, err := full.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	d := &directDatagrams{raw: raw}
	batch := slices.Repeat([][]byte{make([]byte, 1000)}, 10_000)
	if err := d.Send(batch); err != nil || d.Dropped() == 0 || d.Dropped() == uint64(len(batch)) {
		t.Errorf("%d of %d are dropped, error %v; want some", d.Dropped(), len(batch), err)
	}
}
