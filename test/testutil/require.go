package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inCI reports whether the test runs where nothing may be skipped.
func inCI() bool { return os.Getenv("CI") == "true" }

// Privileged skips the test if it may not change networks and load BPF
// programs, unless CI=true: then it fails, since a skip would hide a
// regression.
func Privileged(t testing.TB) {
	t.Helper()
	if mayAdminister() {
		return
	}
	refuse(t, inCI(), "needs CAP_SYS_ADMIN and CAP_NET_ADMIN: make test takes them by sudo")
}

func refuse(t testing.TB, ci bool, reason string) {
	t.Helper()
	if ci {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func mayAdminister() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) != nil {
		return false
	}
	const both = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return sets[0].Effective&both == both
}

// Program returns the path of a program that a package of the distribution
// brings, also of one for administrators, whose folders are not in every PATH.
// Where it is missing the test is skipped, unless CI=true: then it fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, folder := range []string{"", "/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
			return path
		}
	}
	refuse(t, inCI(), fmt.Sprintf("needs the program %s: make test installs it", name))
	return ""
}

// KernelSince skips the test on kernels before major.minor, the first that has
// feature. On others it never skips, so a feature that broke fails the test.
func KernelSince(t testing.TB, major, minor int, feature string) {
	t.Helper()
	if KernelBefore(t, major, minor) {
		t.Skipf("kernel %s has no %s, which came with %d.%d", release(t), feature, major, minor)
	}
}

// KernelBefore reports whether the kernel is older than major.minor.
func KernelBefore(t testing.TB, major, minor int) bool {
	t.Helper()
	older, err := olderThan(release(t), major, minor)
	if err != nil {
		t.Fatal(err)
	}
	return older
}

func release(t testing.TB) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(name.Release[:])
}

func olderThan(release string, major, minor int) (bool, error) {
	var haveMajor, haveMinor int
	if _, err := fmt.Fscanf(strings.NewReader(release), "%d.%d", &haveMajor, &haveMinor); err != nil {
		return false, fmt.Errorf("parse kernel release %q: %w", release, err)
	}
	return haveMajor < major || haveMajor == major && haveMinor < minor, nil
}
