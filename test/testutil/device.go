package testutil

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkType skips the test on kernels that were built without a type of network
// devices. Those of make vmtest have them all, and accept no such skip.
func LinkType(t testing.TB, kind string) {
	t.Helper()
	handle, err := Netns(t).Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	err = handle.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, LinkType: kind})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("kernel was built without network devices of the type %s", kind)
	}
}
