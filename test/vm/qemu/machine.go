// Package qemu runs virtual machines that end by themselves and say how. They
// are emulated: the same everywhere, without a device of the host.
package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Machine is a virtual machine with one processor. It has no network.
type Machine struct {
	// Kernel is the path of an uncompressed kernel with a PVH entry.
	Kernel string
	// Initrd is the path of an initramfs, or empty.
	Initrd string
	// Append are words for the kernel beside those that make it fast.
	Append string
	// Memory is in MiB.
	Memory int
	// Drives are NVMe. With more than one, the guest tells them apart by
	// their Serial: their names are given as they answer.
	Drives []Drive
	// Console is told what the kernel says, and what process 1 writes to
	// /dev/ttyS0, which must end with the line of Exit.
	Console io.Writer
	// Output is told what is written to /dev/ttyS1.
	Output io.Writer
	// Reboots says that the machine starts again when its guest reboots, with
	// the disks as the guest left them. Otherwise that is its end.
	Reboots bool
	// Timeout is how long the machine may run.
	Timeout time.Duration
}

// Drive is a file that the machine sees as a disk. What it writes there is
// forgotten, unless Keep is true.
type Drive struct {
	Path string
	Keep bool
}

// Serial is the serial number of a machine's drive, counted from 0.
func Serial(drive int) string { return fmt.Sprintf("d%d", drive) }

// program is QEMU's name.
const program = "qemu-system-x86_64"

// options suit every kernel and make it boot fast in an emulator: it neither
// guards against a neighbour on its processor, nor tests its own cryptography,
// nor hides where it is. The BPF LSM is on. khugepaged is off: it has the lowest
// priority of all, so that on a processor that is never idle it may be preempted
// for minutes inside of RCU, and every grace period of the machine waits for it.
const options = "panic=-1 quiet nokaslr mitigations=off tsc=reliable random.trust_cpu=on cryptomgr.notests " +
	"init_on_alloc=0 transparent_hugepage=never no5lvl apparmor=0 lsm=landlock,lockdown,yama,integrity,bpf"

// Run runs the machine to its end and returns the code that the guest gave. The
// error wraps ErrInfra if the machine did not get as far as to give one.
func (m Machine) Run(ctx context.Context) (code int, err error) {
	limited, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	console := &tail{to: m.Console, panicked: cancel}
	var said bytes.Buffer
	exit, err := m.run(limited, console, &said)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInfra, err)
	}
	switch limited.Err() {
	case nil:
	case context.Canceled:
		return 0, fmt.Errorf("%w: the kernel panicked%s", ErrInfra, oops(console.kept))
	default:
		return 0, fmt.Errorf("%w: not done after %s%s", ErrInfra, m.Timeout, oops(console.kept))
	}
	code, err = judge(exit, console.kept)
	if err != nil && said.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return code, err
}

// run returns the exit code of QEMU, or -1 if a signal ended it.
func (m Machine) run(ctx context.Context, console io.Writer, said io.Writer) (exit int, err error) {
	cmd := exec.CommandContext(ctx, program, m.arguments()...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	var copying sync.WaitGroup
	defer copying.Wait()
	var ours []*os.File // the ends of pipes that are only QEMU's once it runs
	defer func() {
		for _, f := range ours {
			f.Close()
		}
	}()
	for _, to := range []io.Writer{console, m.Output} {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		cmd.ExtraFiles, ours = append(cmd.ExtraFiles, w), append(ours, w)
		copying.Go(func() {
			defer r.Close()
			// A writer that has had enough must not stop the machine.
			if _, err := io.Copy(to, r); err != nil {
				io.Copy(io.Discard, r)
			}
		})
	}
	err = cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (m Machine) arguments() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-M", "q35", "-bios", "qboot.rom",
		// One processor: before QEMU 8.1 several make kernels stumble over
		// their own code as they patch it.
		"-accel", "tcg", "-cpu", "max,la57=off", "-smp", "1", "-m", strconv.Itoa(m.Memory),
		"-kernel", m.Kernel, "-append", strings.TrimSpace("console=ttyS0 " + options + " " + m.Append),
		"-serial", "file:/dev/fd/3", "-serial", "file:/dev/fd/4",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", ExitPort),
	}
	if !m.Reboots {
		args = append(args, "-no-reboot")
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	for i, d := range m.Drives {
		snapshot := "on"
		if d.Keep {
			snapshot = "off"
		}
		args = append(args,
			"-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=d%d,snapshot=%s", strings.ReplaceAll(d.Path, ",", ",,"), i, snapshot),
			"-device", fmt.Sprintf("nvme,drive=d%d,serial=%s", i, Serial(i)))
	}
	return args
}

// tail passes on what is written, and keeps the end of it. A kernel that panics
// need not end its machine: tail calls panicked then.
type tail struct {
	to       io.Writer
	panicked func()
	kept     []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const limit = 1 << 20
	const sign = "Kernel panic - not syncing"
	t.kept = append(t.kept, p...)
	if bytes.Contains(t.kept[max(0, len(t.kept)-len(p)-len(sign)):], []byte(sign)) {
		t.panicked()
	}
	if surplus := len(t.kept) - limit; surplus > 0 {
		t.kept = append(t.kept[:0], t.kept[surplus:]...)
	}
	return t.to.Write(p)
}
