package matrix

import (
	"fmt"
	"regexp"
	"strconv"
)

// reason is how testutil.KernelSince explains a skip.
var reason = regexp.MustCompile(`^kernel (\S+) has no .+, which came with ([0-9]+)\.([0-9]+)$`)

// checkSkip returns an error unless the text proves that a test had to be
// skipped on this kernel: what the test needs came with a later one.
func checkSkip(text, release string) error {
	m := reason.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("read %q: it names no feature that the kernel lacks", text)
	}
	if m[1] != release {
		return fmt.Errorf("read %q: the kernel is %s", text, release)
	}
	var have [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &have[0], &have[1]); err != nil {
		return fmt.Errorf("parse kernel release %q: %w", release, err)
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	if have[0] > major || have[0] == major && have[1] >= minor {
		return fmt.Errorf("read %q: the kernel is not older", text)
	}
	return nil
}
