// Package rtnetlink asks the kernel about devices, addresses and routes, and hears
// of their changes. See rtnetlink(7).
package rtnetlink

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Patience is how long an answer of the kernel may take, which comes at once
// unless it is lost.
const Patience = 10 * time.Second

// Open returns a handle in the calling thread's network namespace. A question that
// the kernel does not answer within [Patience] is an error. The caller closes it.
func Open() (*netlink.Handle, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	if err := handle.SetSocketTimeout(Patience); err != nil {
		handle.Close()
		return nil, fmt.Errorf("set route netlink timeout: %w", err)
	}
	return handle, nil
}
