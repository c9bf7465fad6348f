package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/doctor"
)

func newDoctor(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the host",
		Long: `Doctor checks, in this order, whether the host has what bpfacq needs, what is configured
and loaded, whether packets and host names can be acquired, what the kernel has of the
feature ladder, and what else on the host acquires, routes or hides traffic. Each check
says what it found, what that means, and what to do. It changes nothing and needs no
agent; where one acquires names, it asks for one of the profile's. Without root some
checks end as unknown.

  ok       as it should be
  note     worth knowing, nothing has to be done
  unknown  the check was not possible
  warning  bpfacq works, and not as well or as meant
  failure  bpfacq does not work like this

The exit status is 1 if there is a failure. With --strict, warnings and unknown checks
make it 1 too.`,
		Example: `  sudo bpfacq doctor
  sudo bpfacq doctor --strict -o json`,
		Args: operands,
	}
	at, output := configFlag(e, cmd), outputFlag(cmd)
	strict := cmd.Flags().Bool("strict", false, "exit with 1 also for warnings and unknown checks")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, named := at.byDefault, at.path != ""
		if named {
			var err error
			if path, err = filepath.Abs(at.path); err != nil {
				return fmt.Errorf("find configuration: %w", err)
			}
		}
		report := e.examine(cmd.Context(), path, named)
		if err := e.answer(output, report, func(w io.Writer) { doctorTable(w, report) }); err != nil {
			return err
		}
		return doctorVerdict(report, *strict)
	}
	return cmd
}

func doctorTable(w io.Writer, r *doctor.Report) {
	row(w, "CHECK", "STATE", "FINDING")
	for _, f := range r.Findings {
		row(w, f.ID, f.State, f.Cause)
		if f.Remedy != "" && f.State != doctor.StateOK && !f.NeedsRoot {
			fmt.Fprintf(w, "\t\tto do: %s\n", cell(f.Remedy))
		}
	}
	fmt.Fprintf(w, "\n%s, %s, %s unknown, %s, %d ok\n",
		plural(r.Count(doctor.StateFailure), "failure"), plural(r.Count(doctor.StateWarning), "warning"),
		fmt.Sprint(r.Count(doctor.StateUnknown)), plural(r.Count(doctor.StateNote), "note"), r.Count(doctor.StateOK))
	if ids := r.NeedRoot(); len(ids) > 0 {
		fmt.Fprintf(w, "as root (sudo bpfacq doctor) these say more: %s\n", strings.Join(ids, ", "))
	}
}

// doctorVerdict is the error that gives the command its exit status.
func doctorVerdict(r *doctor.Report, strict bool) error {
	failures := r.Count(doctor.StateFailure)
	odd := r.Count(doctor.StateWarning) + r.Count(doctor.StateUnknown)
	switch {
	case failures > 0:
		return fmt.Errorf("host fails %s", plural(failures, "check"))
	case strict && odd > 0:
		return fmt.Errorf("host leaves %s with a warning or unknown", plural(odd, "check"))
	}
	return nil
}

// examine is what doctor does on a real host.
func examine(ctx context.Context, config string, named bool) *doctor.Report {
	return doctor.Examine(ctx, doctor.Host{
		Root:        os.DirFS("/"),
		Config:      config,
		ConfigNamed: named,
		Kernel:      kernel{},
		Network:     doctor.ReadNetwork,
		Agent: func(ctx context.Context, socket string) (control.Status, error) {
			return control.NewClient(socket).Status(ctx)
		},
		Resolve: func(ctx context.Context, name string) ([]netip.Addr, error) {
			var resolver net.Resolver
			return resolver.LookupNetIP(ctx, "ip4", name+".") // without search domains
		},
		Run: doctor.RunProgram,
	})
}

// kernel is the loader as doctor knows it.
type kernel struct{}

// Usable implements doctor.Kernel.
func (kernel) Usable() error { return loader.Usable() }

// Ladder implements doctor.Kernel.
func (kernel) Ladder() []doctor.Feature {
	var all []doctor.Feature
	for _, f := range loader.Ladder() {
		all = append(all, doctor.Feature{ID: f.ID, Have: string(f.Have), Gives: f.Gives, Otherwise: f.Otherwise, Err: f.Err})
	}
	return all
}

// Hooks implements doctor.Kernel.
func (kernel) Hooks(pins string) ([]string, error) {
	hooks, err := loader.Hooks(pins)
	var names []string
	for _, h := range hooks {
		names = append(names, h.Program)
	}
	return names, err
}

// ForeignOnCgroups implements doctor.Kernel.
func (kernel) ForeignOnCgroups(root string) ([]doctor.Foreign, error) {
	return strangers(loader.ForeignOnCgroups(root))
}

// ForeignOnDevice implements doctor.Kernel.
func (kernel) ForeignOnDevice(index int) ([]doctor.Foreign, error) {
	return strangers(loader.ForeignOnDevice(index))
}

func strangers(programs []loader.Foreign, err error) ([]doctor.Foreign, error) {
	var all []doctor.Foreign
	for _, f := range programs {
		all = append(all, doctor.Foreign{Name: f.Name, Attach: f.Attach, Place: f.Place, Exclusive: f.Exclusive})
	}
	return all, err
}
