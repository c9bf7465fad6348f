// Package kernel makes bootable kernels and their modules out of Debian's
// packages for virtual machines in clouds, whose disks are built in.
package kernel

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Newest stands for the newest series that there is.
const Newest = "new"

// Suites are where the series are: of old releases, only security updates.
func Suites() []string {
	return []string{"bullseye-security", "bookworm-security", "trixie-backports"}
}

// version is major, minor and patch level, and the number of Debian's ABI.
type version [4]int

// image is a package with a kernel for clouds. From 6.19 on linux-image-…
// depends on linux-binary-…, which has the kernel, and linux-modules-….
type image struct {
	name, kind, suffix string
	version            version
}

var imageName = regexp.MustCompile(`^linux-(image|binary)-(([0-9]+)\.([0-9]+)\.([0-9]+)(?:-([0-9]+))?(?:\+[a-z0-9]+)?-cloud-amd64)$`)

func parseImage(name string) (image, bool) {
	m := imageName.FindStringSubmatch(name)
	if m == nil {
		return image{}, false
	}
	i := image{name: name, kind: m[1], suffix: m[2]}
	for n, digits := range m[3:] {
		if digits != "" {
			i.version[n], _ = strconv.Atoi(digits)
		}
	}
	return i, true
}

// Choose returns the series, as a number, and the packages of the newest kernel of a
// series, such as "6.1", or of all. ok is false if names has none.
func Choose(names []string, series string) (exact string, packages []string, ok bool) {
	var best image
	for _, name := range names {
		i, is := parseImage(name)
		if !is || series != Newest && i.series() != series {
			continue
		}
		newer := cmp.Or(slices.Compare(i.version[:], best.version[:]), cmp.Compare(rank(i), rank(best)), cmp.Compare(i.name, best.name))
		if newer > 0 {
			best = i
		}
	}
	if best.name == "" {
		return "", nil, false
	}
	packages = []string{best.name}
	if best.kind == "binary" {
		packages = append(packages, "linux-modules-"+best.suffix)
	}
	return best.series(), packages, true
}

// rank prefers, of equal versions, the package that has the kernel.
func rank(i image) int { return slices.Index([]string{"", "image", "binary"}, i.kind) }

func (i image) series() string { return fmt.Sprintf("%d.%d", i.version[0], i.version[1]) }
