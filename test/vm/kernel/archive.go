package kernel

import (
	"os"

	"github.com/bpfacq/bpfacq/test/vm/debian"
)

// Archive returns an apt that knows the suites with kernels, from where this
// machine's apt gets its packages. It keeps its files below folder.
func Archive(folder string) (*debian.Apt, error) {
	machine := os.DirFS("/")
	known, err := debian.Known(machine)
	if err != nil {
		return nil, err
	}
	codename, err := debian.Codename(machine)
	if err != nil {
		return nil, err
	}
	sources, err := debian.Translate(known, codename, Suites()...)
	if err != nil {
		return nil, err
	}
	return debian.Open(folder, sources)
}
