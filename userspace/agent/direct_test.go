package agent

import (
	"errors"
	"net"
	"slices"
	"testing"
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
	d := directDatagrams{conn}
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
