package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// The clients of others, through our own edge.
func TestClientsOfOthersAreAcquired(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:*")
	s.start(t)
	t.Run("curl", s.checkCurl)
	t.Run("ssh", s.checkSSH)
	t.Run("asyncio", s.checkAsyncio)
	s.stop(t)
}

func (s *site) checkCurl(t *testing.T) {
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	testutil.HTTPS(t, s.net, webAddr+":443", s.authority, []string{webAddr}, http.HandlerFunc(web))
	for _, test := range []struct{ url, want string }{
		{"http://" + webAddr + "/", fromWeb(webAddr + ":80")},
		{"https://" + webAddr + "/", fromWeb(webAddr + ":443")},
	} {
		if got, err := s.curl(t, test.url, "--cacert", s.files.Roots); got != test.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", test.url, got, err, test.want)
		}
	}
}

// checkSSH runs a command by key, and sends a file through it and back.
func (s *site) checkSSH(t *testing.T) {
	s.startDropbear(t)
	const size = 4 << 20
	cmd := program(t, "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+filepath.Join(s.folder, "known_hosts"),
		"-i", s.key(), "root@"+webAddr, "cat; echo from $USER")
	cmd.Stdin = io.LimitReader(noise(), int64(size))
	got, err := testutil.Output(t, s.host, s.cgroup, cmd)
	if err != nil {
		t.Fatal(err)
	}
	file, rest := got[:min(size, len(got))], got[min(size, len(got)):]
	if same, err := compare(strings.NewReader(file), noise()); same != int64(size) || err != nil {
		t.Errorf("%d bytes of %d came back, %v", same, size, err)
	}
	if want := "from root\n"; rest != want {
		t.Errorf("command ends with %q, want %q", rest, want)
	}
}

func (s *site) key() string { return filepath.Join(s.folder, "key") }

// startDropbear starts an SSH daemon that lets root in by s.key. It looks for
// what root allows in a home of its own.
func (s *site) startDropbear(t *testing.T) {
	root, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	hostKey := filepath.Join(s.folder, "host_key")
	if _, err := testutil.Output(t, nil, "", program(t, "dropbearkey", "-t", "ed25519", "-f", hostKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := testutil.Output(t, nil, "", program(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.key())); err != nil {
		t.Fatal(err)
	}
	cmd, home := programOver(t, root.HomeDir, "dropbear", "-F", "-E", "-s", "-m",
		"-r", hostKey, "-P", filepath.Join(s.folder, "dropbear.pid"), "-p", webAddr+":22")
	public, err := os.ReadFile(s.key() + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "authorized_keys"), public, 0o600); err != nil {
		t.Fatal(err)
	}
	s.startListening(t, cmd, webAddr+":22")
}

func (s *site) checkAsyncio(t *testing.T) {
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	testutil.Respond(t, s.net, "192.168.11.251:80", func(conn *net.TCPConn) {
		if question, err := io.ReadAll(conn); err == nil {
			fmt.Fprintf(conn, "answer to %s", bytes.TrimSpace(question))
		}
	})
	const count = "500"
	got, err := testutil.Output(t, s.host, s.cgroup, program(t, "python3", "testdata/clients.py", count))
	if want := count + " greetings and answers\n"; got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
