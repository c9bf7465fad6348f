// Package matrix runs the privileged tests on many kernels, each in a virtual
// machine of its own, and judges what came of it.
package matrix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/bpfacq/bpfacq/test/vm/image"
	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/lines"
)

// Options say what is run on what.
type Options struct {
	Top      string     // of the repository
	Folder   string     // for what is kept from run to run, and logs
	Kernels  []Kernel   // that the project knows
	Choice   []string   // series of some of them, or of others; none means all
	Image    image.Spec // of the root file system
	Packages []string   // patterns of go list
	Flags    []string   // of the test binaries
	Modules  []string   // that the tests need where they are not built in
	Update   bool       // tests write their golden files, which come back
	Output   io.Writer
}

// Kernel is a series of kernels.
type Kernel struct {
	Series string // or kernel.Newest
	// Leaving means that the archive need not have it: a release that gets no
	// more updates, or a series that was never meant to stay.
	Leaving bool
}

// machines is how many run at the same time.
const machines = 2

// run is one call of Run.
type run struct {
	Options
	root    string // path of the root file system
	payload *payload
	output  *lines.Output
	alone   bool // there is one kernel
}

// Run runs the tests and writes go test's output as it comes, and then a table.
// Its error names everything that has not passed.
func Run(ctx context.Context, opts Options) error {
	r := &run{Options: opts}
	var err error
	if r.root, err = image.Build(ctx, filepath.Join(opts.Folder, "image"), opts.Image); err != nil {
		return err
	}
	if r.payload, err = build(ctx, opts.Top, filepath.Join(opts.Folder, "bin"), opts.Packages); err != nil {
		return err
	}
	kernels, reports, err := r.kernels(ctx)
	if err != nil {
		return err
	}
	r.output, r.alone = lines.NewOutput(opts.Output), len(kernels) == 1
	tested := make([]report, len(kernels))
	var all errgroup.Group
	all.SetLimit(machines)
	for i, k := range kernels {
		all.Go(func() error {
			tested[i] = r.test(ctx, k)
			return nil
		})
	}
	if err := errors.Join(all.Wait(), ctx.Err()); err != nil {
		return err
	}
	for _, t := range tested {
		reports[slices.IndexFunc(reports, func(r report) bool { return r.series == t.series })] = t
	}
	fmt.Fprintln(opts.Output)
	if err := writeTable(opts.Output, reports); err != nil {
		return err
	}
	return judge(reports, r.payload.packages())
}

// kernels gets those that are to be tested, and a report for each, which says so
// where one is not to be had.
func (r *run) kernels(ctx context.Context) (ready []kernel.Kernel, reports []report, err error) {
	store, err := kernel.OpenStore(ctx, r.Folder)
	if err != nil {
		return nil, nil, err
	}
	for _, wanted := range r.wanted() {
		k, err := store.Get(ctx, wanted.Series, r.Modules)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		series := cmp.Or(k.Series, wanted.Series)
		if slices.ContainsFunc(reports, func(r report) bool { return r.series == series }) {
			fmt.Fprintf(r.Output, "kernel %s: %s, named above already\n", wanted.Series, k.Release)
			continue
		}
		reports = append(reports, report{
			series: series, err: err,
			absent: wanted.Leaving && errors.Is(err, kernel.ErrNotOffered),
		})
		if err != nil {
			fmt.Fprintf(r.Output, "kernel %s: %v\n", series, err)
			continue
		}
		fmt.Fprintf(r.Output, "kernel %s: %s\n", series, k.Release)
		ready = append(ready, k)
	}
	return ready, reports, nil
}

// wanted are the kernels of the choice. Nothing chosen may be missing.
func (r *run) wanted() []Kernel {
	if len(r.Choice) == 0 {
		return r.Kernels
	}
	var chosen []Kernel
	for _, series := range r.Choice {
		chosen = append(chosen, Kernel{Series: series})
	}
	return chosen
}
