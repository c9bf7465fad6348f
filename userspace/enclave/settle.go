package enclave

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// settleInterval is how often Settle looks.
const settleInterval = 20 * time.Millisecond

// Settle waits until the peers of all TCP sockets inside have taken what was sent
// to them, or ctx is done: what they have not when the pair goes is lost.
func (e *Enclave) Settle(ctx context.Context) error {
	look := time.NewTicker(settleInterval)
	defer look.Stop()
	for {
		var busy bool
		err := e.namespace.Do(func() (err error) {
			busy, err = unsettled()
			return err
		})
		if err != nil {
			return fmt.Errorf("list sockets of the enclave: %w", err)
		}
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// unsettled reports whether a TCP socket of the calling thread's namespace has sent
// what its peer has not acknowledged. See proc_net_tcp of the kernel's documentation.
func unsettled() (bool, error) {
	const queues = 4 // the fifth field: bytes to send and bytes to read, in hexadecimal
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		table, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		defer table.Close()
		lines := bufio.NewScanner(table)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) <= queues || fields[0] == "sl" {
				continue
			}
			if send, _, ok := strings.Cut(fields[queues], ":"); ok && strings.Trim(send, "0") != "" {
				return true, nil
			}
		}
		if err := lines.Err(); err != nil {
			return false, err
		}
	}
	return false, nil
}
