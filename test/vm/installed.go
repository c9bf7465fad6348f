package main

import (
	"context"
	"path/filepath"

	"github.com/bpfacq/bpfacq/test/vm/systemd"
)

// installed runs the tests of the installed package on the kernels of the named
// series, or on those of Debian's last two releases.
func installed(ctx context.Context, env environment, series []string) error {
	if len(series) == 0 {
		series = []string{"6.1", "6.12"}
	}
	return systemd.Run(ctx, systemd.Options{
		Top:     env.folder,
		Folder:  filepath.Join(env.folder, ".build", "vm"),
		Kernels: series,
		Modules: testModules(),
		Output:  env.stdout,
	})
}
