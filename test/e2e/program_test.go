package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// program is a command that runs a program of the distribution.
func program(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return testutil.Command(t, testutil.Program(t, name), args...)
}

// programOver is program in a world of its own where a fresh folder hides
// another, in which the program insists on reading or writing. It returns the
// fresh one.
func programOver(t testing.TB, hidden, name string, args ...string) (cmd *exec.Cmd, fresh string) {
	t.Helper()
	fresh = t.TempDir()
	const script = `mount --bind "$0" "$1" && shift && exec "$@"`
	args = append([]string{"-c", script, fresh, hidden, testutil.Program(t, name)}, args...)
	cmd = testutil.Command(t, "/bin/sh", args...)
	ownMounts(cmd)
	return cmd, fresh
}

// ownMounts gives a command a world of mounts of its own.
func ownMounts(cmd *exec.Cmd) { cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS }

// settings writes a configuration file for a program and returns its path.
func (s *site) settings(t testing.TB, name, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(s.folder, name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startListening starts a program in the network of the edges and returns when
// it listens.
func (s *site) startListening(t testing.TB, cmd *exec.Cmd, address string) {
	t.Helper()
	testutil.Start(t, s.net, "", cmd)
	testutil.WaitListening(t, s.net, address)
}

// forbiddenAddr is the one address of the private network that squid refuses.
const forbiddenAddr = "192.168.11.66"

// startSquid starts squid with a port directive. It carries flows to every
// private address but one, and knows the diagnostic host by a hosts file. It
// gives up root at once, and then still wants that file and its own /dev/shm.
func (s *site) startSquid(t testing.TB, address, port string) {
	t.Helper()
	conf := s.settings(t, "squid.conf", `
%s
acl private dst %s
acl forbidden dst %s
http_access deny forbidden
http_access allow CONNECT private
http_access deny all
hosts_file /dev/shm/hosts
visible_hostname edge.example
dns_nameservers 127.0.0.1
cache deny all
cache_mem 1 MB
max_filedescriptors 2048
shutdown_lifetime 0 seconds
pinger_enable off
pid_filename none
access_log none
cache_log /dev/null
cache_store_log none
netdb_filename none
coredump_dir none
`, port, privateNetwork, forbiddenAddr)
	cmd, shared := programOver(t, "/dev/shm", "squid", "-N", "-d", "0", "-f", conf)
	if err := os.Chmod(shared, 0o1777); err != nil {
		t.Fatal(err)
	}
	known := fmt.Appendf(nil, "%s %s\n", diagnosticAddr, diagnosticHost)
	if err := os.WriteFile(filepath.Join(shared, "hosts"), known, 0o644); err != nil {
		t.Fatal(err)
	}
	s.startListening(t, cmd, address)
}
