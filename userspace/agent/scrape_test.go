package agent

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestMetricsAreServedWhereNoAddressIsYet(t *testing.T) {
	for _, address := range []string{"192.0.2.99:0", "[2001:db8::99]:0"} {
		var config net.ListenConfig
		plain, err := config.Listen(t.Context(), "tcp", address)
		if err == nil {
			plain.Close()
			t.Fatalf("this host has the address of the example %s", address)
		}
		if errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a kernel without IPv6 has no such address ever
		}
		l, err := listenForScrapes(t.Context(), address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		l.Close()
	}
	l, err := listenForScrapes(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listenForScrapes(t.Context(), l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener at %v gives %v, want EADDRINUSE", l.Addr(), err)
	}
}
