// Package systemd runs the tests of package host in virtual machines: a Debian
// with systemd as process 1, on several kernels.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfacq/bpfacq/test/vm/binary"
	"github.com/bpfacq/bpfacq/test/vm/image"
	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/lines"
)

// Options say what is run on what.
type Options struct {
	Top     string    // of the repository
	Folder  string    // for what is kept from run to run, and logs
	Kernels []string  // series
	Modules []string  // that the guest may load where they are not built in
	Output  io.Writer // gets the tests' output as it comes, and a table
}

// machines is how many run at the same time.
const machines = 2

// run is one call of Run.
type run struct {
	Options
	image string // path of the root file system
	parts parts
}

// Run runs the tests and writes their output as it comes, and then a table. Its
// error names everything that has not passed.
func Run(ctx context.Context, opts Options) error {
	r := &run{Options: opts}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	kernels, err := r.kernels(ctx)
	if err != nil {
		return err
	}
	results := make([]result, len(kernels))
	output := lines.NewOutput(opts.Output)
	var running errgroup.Group
	running.SetLimit(machines)
	for i, k := range kernels {
		running.Go(func() error {
			results[i] = r.test(ctx, k, output.Of(k.Series+"\t"))
			return nil
		})
	}
	if err := errors.Join(running.Wait(), ctx.Err()); err != nil {
		return err
	}
	fmt.Fprintln(opts.Output)
	return judge(opts.Output, results)
}

// prepare makes what every machine gets.
func (r *run) prepare(ctx context.Context) error {
	spec, err := guestImage(r.Output)
	if err != nil {
		return err
	}
	if r.image, err = image.Build(ctx, filepath.Join(r.Folder, "image"), spec); err != nil {
		return err
	}
	if r.parts.deb, err = newestPackage(filepath.Join(r.Top, ".build", "packages")); err != nil {
		return err
	}
	bin := filepath.Join(r.Folder, "bin", "systemd")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	r.parts.readme = filepath.Join(r.Top, "README.md")
	r.parts.test = filepath.Join(bin, "test_host.test")
	r.parts.guest = filepath.Join(bin, "guest")
	return errors.Join(
		binary.Build(ctx, r.Top, r.parts.test, "./test/host", "test", "-c"),
		binary.Build(ctx, r.Top, r.parts.guest, "./test/vm/guest", "build"),
	)
}

// newestPackage returns the path of the .deb that was built last.
func newestPackage(folder string) (path string, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "bpfacq_*_amd64.deb"))
	if err != nil {
		return "", err
	}
	var newest time.Time
	for _, candidate := range paths {
		status, err := os.Stat(candidate)
		if err != nil {
			return "", err
		}
		if status.ModTime().After(newest) {
			path, newest = candidate, status.ModTime()
		}
	}
	if path == "" {
		return "", fmt.Errorf("find a package in %s: make packages builds it", folder)
	}
	return path, nil
}

// kernels gets those of the series, all of which have to be there.
func (r *run) kernels(ctx context.Context) (ready []kernel.Kernel, err error) {
	store, err := kernel.OpenStore(ctx, r.Folder)
	if err != nil {
		return nil, err
	}
	for _, series := range r.Kernels {
		k, err := store.Get(ctx, series, r.Modules)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(ready, func(r kernel.Kernel) bool { return r.Series == k.Series }) {
			ready = append(ready, k)
		}
	}
	return ready, nil
}

// judge writes the table of results. Its error names what has not passed.
func judge(w io.Writer, results []result) (failed error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KERNEL\tRELEASE\tSECONDS\tTESTS")
	for _, r := range results {
		verdict := "passed"
		switch {
		case r.err != nil:
			verdict = "not run: " + r.err.Error()
		case r.code != 0:
			verdict = "failed"
		}
		fmt.Fprintf(table, "%s\t%s\t%.0f\t%s\n", r.kernel.Series, r.kernel.Release, r.took.Seconds(), verdict)
		if verdict != "passed" {
			failed = errors.Join(failed, fmt.Errorf("test on kernel %s: %s", r.kernel.Series, verdict))
		}
	}
	return errors.Join(failed, table.Flush())
}
