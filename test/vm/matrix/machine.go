package matrix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bpfacq/bpfacq/test/vm/initramfs"
	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/lines"
	"github.com/bpfacq/bpfacq/test/vm/plan"
	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

const (
	memory      = 1536             // MiB
	testTimeout = 45 * time.Minute // of a package, on a machine that is busy with something else
	timeout     = 2 * testTimeout
)

// test runs the tests on a kernel.
func (r *run) test(ctx context.Context, k kernel.Kernel) (result report) {
	show := r.show(k)
	result.err = qemu.Insist(ctx, show, func() error {
		result = report{series: k.Series, release: k.Release, tally: newTally(show)}
		return r.boot(ctx, k, &result)
	})
	return result
}

// show is where the lines of a kernel go. Several are told apart by a prefix.
func (r *run) show(k kernel.Kernel) io.Writer {
	if r.alone {
		return r.output.Of("")
	}
	return r.output.Of(k.Series + "\t")
}

// boot runs one machine.
func (r *run) boot(ctx context.Context, k kernel.Kernel, result *report) (err error) {
	folder := filepath.Join(r.Folder, "run", k.Series)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	machine := qemu.Machine{
		Kernel: k.Image, Initrd: filepath.Join(folder, "initrd"), Memory: memory, Timeout: timeout,
		Drives: []qemu.Drive{{Path: r.root}},
	}
	todo := plan.Plan{Root: qemu.Serial(0), Source: source, Environment: r.environment(), Tests: r.payload.tests(r.Flags)}
	returns := filepath.Join(folder, "returns.tar")
	if r.Update {
		if err := makeDisk(returns); err != nil {
			return err
		}
		machine.Drives = append(machine.Drives, qemu.Drive{Path: returns, Keep: true})
		todo.Returns = qemu.Serial(1)
	}
	if err := r.payload.writeInitrd(machine.Initrd, k.Modules, todo); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(machine.Initrd)) }()

	said, err := os.Create(filepath.Join(folder, "console"))
	if err != nil {
		return err
	}
	defer said.Close()
	events, err := os.Create(filepath.Join(folder, "events"))
	if err != nil {
		return err
	}
	defer events.Close()
	begun := time.Now()
	watch := &console{booted: func() { result.boot = time.Since(begun) }, show: r.show(k)}
	machine.Console = io.MultiWriter(said, &lines.Splitter{Take: watch.take})
	machine.Output = io.MultiWriter(events, &lines.Splitter{Take: result.tally.take})
	result.code, err = machine.Run(ctx)
	result.took = time.Since(begun)
	if err == nil && r.Update {
		err = unpack(returns, r.Top)
	}
	return err
}

// environment is that of a test in the machine: nothing may be skipped there for
// a reason that is not the kernel's.
func (r *run) environment() []string {
	env := []string{
		"CI=true", "HOME=/root", "LANG=C.UTF-8", "TMPDIR=/tmp",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	if r.Update {
		env = append(env, "UPDATE=1")
	}
	return env
}

// writeInitrd writes the initramfs of a machine.
func (p *payload) writeInitrd(path string, modules []string, todo plan.Plan) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := initramfs.NewWriter(file)
	for _, module := range modules {
		name := "/modules/" + filepath.Base(module)
		if err := addFile(archive, name, module); err != nil {
			return err
		}
		todo.Modules = append(todo.Modules, name)
	}
	if err := p.addTo(archive); err != nil {
		return err
	}
	text, err := todo.Marshal()
	if err != nil {
		return err
	}
	return errors.Join(
		archive.File(plan.File, 0o644, int64(len(text)), bytes.NewReader(text)),
		archive.Close(),
	)
}

func addFile(archive *initramfs.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	is, err := file.Stat()
	if err != nil {
		return err
	}
	return archive.File(name, is.Mode(), is.Size(), file)
}

// console looks for what process 1 says among what the kernel says, a line each.
type console struct {
	booted func()
	show   io.Writer
}

func (c *console) take(line []byte) error {
	switch line = bytes.TrimRight(line, "\r"); {
	case bytes.HasPrefix(line, []byte(plan.BootLine)):
		c.booted()
	case bytes.HasPrefix(line, []byte(plan.ComplaintLine)):
		fmt.Fprintf(c.show, "%s\n", line)
	}
	return nil
}
