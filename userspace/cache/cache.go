// Package cache has the host forget what its resolvers remember, so that names
// are asked for again after a policy has changed.
package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A daemon that is well answers within milliseconds. Together these bound Flush.
const (
	limit = 4 * time.Second // for the programs
	grace = time.Second     // for what a killed one has started
)

// daemon is a program that keeps answers, and what has it forget them.
type daemon struct {
	socket  string // unix socket that it listens on while it runs
	command []string
}

// daemons are those that are known. A stopped one is left alone, for it has
// nothing to forget, and the bus would start systemd-resolved on being asked.
func daemons() []daemon {
	return []daemon{
		{"/run/systemd/resolve/io.systemd.Resolve", []string{"resolvectl", "flush-caches"}}, // resolvectl(1)
		{"/run/nscd/socket", []string{"nscd", "--invalidate=hosts"}},                        // nscd(8)
	}
}

// Flush empties the caches of systemd-resolved and of nscd, whichever runs. It
// takes five seconds at most and, like their programs, root. Caches of
// applications stay; what bpfacq answered them is valid for 30 s.
func Flush(ctx context.Context) error { return flush(ctx, limit, daemons()) }

// flush has all daemons forget at once.
func flush(ctx context.Context, limit time.Duration, all []daemon) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, d := range all {
		wg.Go(func() { errs[i] = d.flush(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d daemon) flush(ctx context.Context) error {
	runs, err := d.runs(ctx)
	if err != nil || !runs {
		return err
	}
	cmd := exec.CommandContext(ctx, d.command[0], d.command[1:]...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.WaitDelay = grace
	_, err = cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 && ctx.Err() == nil {
		return fmt.Errorf("run %s: %w: %s", d.command[0], err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", d.command[0], errors.Join(ctx.Err(), err))
	}
	return nil
}

// runs reports whether the daemon listens.
func (d daemon) runs(ctx context.Context) (bool, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", d.socket)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("reach %s: %w", d.socket, err)
	}
	return true, conn.Close()
}
