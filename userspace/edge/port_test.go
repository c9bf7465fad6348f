package edge

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// An edge has one address and thousands of flows: a port that is taken for one
// destination must be free for the others.
func TestDestinationsShareALocalPort(t *testing.T) {
	ns := testutil.Netns(t)
	var targets []netip.AddrPort
	for range 2 {
		targets = append(targets, testutil.Echo(t, ns, "127.0.0.1:0"))
	}
	err := ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40000"), 0); err != nil {
			return err
		}
		for _, to := range targets {
			conn, err := connect(t.Context(), to)
			if err != nil {
				return err
			}
			defer conn.Close()
			if port := conn.LocalAddr().(*net.TCPAddr).Port; port != 40000 {
				t.Errorf("connection to %s has port %d, want the only one", to, port)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
