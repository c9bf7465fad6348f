// Vm runs tests in virtual machines: make vmtest and make vmtest-systemd.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// environment is what a command knows of the process.
type environment struct {
	folder string // of the repository
	stdout io.Writer
	getenv func(string) string
}

// commands are run by their names, with the arguments after that.
func commands() map[string]func(context.Context, environment, []string) error {
	return map[string]func(context.Context, environment, []string) error{
		"kernels": kernels,
		"systemd": installed,
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{""}
	}
	command, ok := commands()[args[0]]
	if !ok {
		return fmt.Errorf("find command %q: not known", args[0])
	}
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	return command(ctx, environment{folder: folder, stdout: os.Stdout, getenv: os.Getenv}, args[1:])
}
