package container

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestProcessOfARealNamespaceIsFoundByItsAddresses(t *testing.T) {
	ns := testutil.Netns(t)
	addrs := []string{"10.213.7.9/24", "fd00:213:7::9/64"}
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			parsed, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(lo, parsed); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})

	r := New(Options{})
	for _, addr := range addrs {
		from := netip.AddrPortFrom(netip.MustParsePrefix(addr).Addr(), 4711)
		got := r.Origin(flow.UDP, from, from)
		if want := (Origin{Source: from, Name: r.Namespace(namespaceOf(fmt.Sprintf("/proc/%d", cmd.Process.Pid)))}); got != want || want.Name == "" {
			t.Errorf("origin of %s is %+v, want %+v", addr, got, want)
		}
	}
}
