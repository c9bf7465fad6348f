package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenForScrapes opens the listener of metrics. Its address may be one that the
// host does not have yet: an agent does not wait for the network.
func listenForScrapes(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: bindFreely}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return l, nil
}

// bindFreely lets a socket be bound to an address that is not there: ip(7).
func bindFreely(network, _ string, raw syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if strings.HasSuffix(network, "6") {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(controlErr, err)
}
