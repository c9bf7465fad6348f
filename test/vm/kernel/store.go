package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bpfacq/bpfacq/test/vm/debian"
)

// Store gets kernels from where this machine's apt gets its packages, and keeps
// them.
type Store struct {
	apt    *debian.Apt
	folder string
	lists  error // why some suites are missing; see debian.Apt.Update
}

// OpenStore returns the store in a folder, after it has asked the archives what
// they have. A suite that is not to be had is an error only of the kernels that
// it would have.
func OpenStore(ctx context.Context, folder string) (*Store, error) {
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
	apt, err := debian.Open(filepath.Join(folder, "apt"), sources)
	if err != nil {
		return nil, err
	}
	return &Store{apt: apt, folder: filepath.Join(folder, "kernel"), lists: apt.Update(ctx)}, ctx.Err()
}

// Get returns the newest kernel of a series, or of all for Newest, with the
// modules that are wanted and those that these need, in the order of insertion.
// The error wraps ErrNotOffered if there is none.
func (s *Store) Get(ctx context.Context, series string, wanted []string) (Kernel, error) {
	names, err := s.apt.Names(ctx)
	if err != nil {
		return Kernel{}, s.explain(err)
	}
	exact, packages, err := s.choose(names, series)
	if err != nil {
		return Kernel{}, s.explain(err)
	}
	files, err := s.apt.Fetch(ctx, packages...)
	if err != nil {
		return Kernel{}, s.explain(err)
	}
	k, err := keep(ctx, s.folder, exact, files, wanted)
	if err != nil {
		return Kernel{}, s.explain(err)
	}
	return k, nil
}

// choose is Choose over what is known. An archive that was not reached may have
// what is missing, and something newer than the newest.
func (s *Store) choose(names []string, series string) (exact string, packages []string, err error) {
	reached := s.lists == nil || errors.Is(s.lists, debian.ErrGone)
	exact, packages, ok := Choose(names, series)
	switch {
	case !ok && reached:
		return "", nil, fmt.Errorf("%w of series %s", ErrNotOffered, series)
	case !ok:
		return "", nil, fmt.Errorf("find a kernel of series %s", series)
	case series == Newest && !reached:
		return "", nil, fmt.Errorf("find the newest kernel, which may not be %s", exact)
	}
	return exact, packages, nil
}

// explain adds to an error which suites are missing.
func (s *Store) explain(err error) error {
	if s.lists != nil {
		return fmt.Errorf("%w; %w", err, s.lists)
	}
	return err
}
