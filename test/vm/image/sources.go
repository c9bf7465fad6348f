package image

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/bpfacq/bpfacq/test/vm/debian"
)

// sourceLines says in apt's one-line form where the packages of a Debian release
// come from: the archives that apt knows on the machine whose root is given.
// Of these only the release itself has to be there.
func sourceLines(machine fs.FS, release string) (string, error) {
	known, err := debian.Known(machine)
	if err != nil {
		return "", err
	}
	codename, err := debian.Codename(machine)
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	var missing error
	for _, kind := range []string{"", "-updates", "-security"} {
		sources, err := debian.Translate(known, codename, release+kind)
		if err != nil && kind == "" {
			missing = errors.Join(missing, err)
		}
		for _, s := range sources {
			lines.WriteString(s.String() + "\n")
		}
	}
	return lines.String(), missing
}
