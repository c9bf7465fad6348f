// Command bpfacq acquires the flows that a forwarding profile names, and
// answers questions about it.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal does not wait for the first one's drain
	os.Exit(run(ctx, host(), os.Args[1:]))
}

// run executes one command line and returns the exit status: 0, 1 for a
// failure, 2 for a mistake in the command line.
func run(ctx context.Context, e *env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	return e.report(root.ExecuteContext(ctx))
}
