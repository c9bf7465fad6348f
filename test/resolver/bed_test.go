package resolver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Where things are. The host has a default route to the gateway, which is the
// edge too, and takes what is sent to public and private addresses alike.
const (
	hostAddr, hostAddr6 = "192.0.2.1", "2001:db8::1"
	edgeAddr, edgeAddr6 = "192.0.2.2", "2001:db8::2"
	edgeName            = "edge.example"

	dnsmasqAddr, dnsmasqAddr6 = "192.0.2.53", "2001:db8::53"
	unboundAddr, unboundAddr6 = "192.0.2.54", "2001:db8::54"
	silentAddr                = "192.0.2.55"
)

// pool is where synthetic addresses are taken from.
const pool = "6.6.0.0/16"

// bed is a host with applications and an agent, and the network that it is
// connected to. Tests start servers, edge and agent as they need them.
type bed struct {
	host      *netns.Namespace
	net       *netns.Namespace // of servers, edge and targets
	cgroup    string           // of the agent and the applications
	folder    string
	etc       string // what the programs of the host have as /etc
	authority *testutil.Authority
	config    config.Config // taken up by start
	control   *control.Client
	agent     *exec.Cmd
}

// newBed makes a bed with targets and a profile. At its end nothing of the host
// may have changed, its files no more than its network, and nothing that was sent
// to a synthetic address may have left it.
func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{
		host:      testutil.Netns(t),
		net:       testutil.Netns(t),
		cgroup:    testutil.Cgroup(t),
		folder:    t.TempDir(),
		authority: testutil.NewAuthority(t),
	}
	b.connect(t)
	testutil.Unchanged(t, b.host)
	b.makeEtc(t)
	b.watchPool(t)
	b.configure(t)
	b.setProfile(t, profileText(t))
	testutil.HTTP(t, b.net, "[::]:80", http.HandlerFunc(web)) // of both families
	return b
}

// connect connects host and network.
func (b *bed) connect(t testing.TB) {
	t.Helper()
	var near, far []netip.Prefix
	for _, addr := range []string{edgeAddr, dnsmasqAddr, unboundAddr, silentAddr} {
		far = append(far, netip.MustParsePrefix(addr+"/24"))
	}
	for _, addr := range []string{edgeAddr6, dnsmasqAddr6, unboundAddr6} {
		far = append(far, netip.MustParsePrefix(addr+"/64"))
	}
	near = append(near, netip.MustParsePrefix(hostAddr+"/24"), netip.MustParsePrefix(hostAddr6+"/64"))
	testutil.Veth(t,
		netns.End{Namespace: b.host, Name: "up0", Addrs: near, Routes: []netns.Route{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(edgeAddr)},
			{Prefix: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr(edgeAddr6)},
		}},
		netns.End{Namespace: b.net, Name: "up0", Addrs: far})
	// What is not there is said to be so as often as somebody asks.
	for _, path := range []string{"/proc/sys/net/ipv4/icmp_ratelimit", "/proc/sys/net/ipv6/icmp/ratelimit"} {
		if err := b.net.Do(func() error { return os.WriteFile(path, []byte("0"), 0) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"203.0.113.0/24", "192.168.0.0/16", "2001:db8:2::/64"} {
		testutil.AnswerAll(t, b.net, netip.MustParsePrefix(prefix))
	}
}

// makeEtc makes the host's /etc: what programs want to find there, and files of
// its own that say how names are resolved.
func (b *bed) makeEtc(t testing.TB) {
	t.Helper()
	b.etc = filepath.Join(b.folder, "etc")
	if err := os.Mkdir(b.etc, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"group", "ld.so.cache", "passwd", "protocols", "services"} {
		text, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil {
			continue // Go needs none of them, and what does brings its own
		}
		b.writeEtc(t, name, string(text))
	}
	b.writeEtc(t, "hosts", "127.0.0.1 localhost\n::1 localhost\n203.0.113.99 pinned.corp.example\n")
	b.writeEtc(t, "nsswitch.conf", "hosts: files dns\n")
	b.writeEtc(t, "resolv.conf", "nameserver "+dnsmasqAddr+"\noptions timeout:10\n")
	t.Cleanup(func() {
		if err := os.RemoveAll(b.etc); err != nil {
			t.Error(err)
		}
	})
}

func (b *bed) writeEtc(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.etc, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keepEtc fails the test at its end if a file of the host's /etc is not byte for
// byte what it was at the call.
func (b *bed) keepEtc(t testing.TB) {
	t.Helper()
	read := func() map[string]string {
		files := make(map[string]string)
		err := fs.WalkDir(os.DirFS(b.etc), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			is, err := entry.Info()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(filepath.Join(b.etc, name))
			files[name] = fmt.Sprintf("%v %v\n%s", is.Mode(), is.ModTime(), text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	before := read()
	t.Cleanup(func() {
		if diff := cmp.Diff(before, read()); diff != "" {
			t.Errorf("files of the host changed:\n%s", diff)
		}
	})
}

// watchPool counts what reaches the network for a synthetic address, and fails
// the test at its end if anything did.
func (b *bed) watchPool(t testing.TB) {
	t.Helper()
	cmd := testutil.Command(t, testutil.Program(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet watch {
	counter leaked { }
	chain arrived {
		type filter hook prerouting priority -400;
		ip daddr ` + pool + ` counter name leaked
	}
}
`)
	if out, err := testutil.Output(t, b.net, "", cmd); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	t.Cleanup(func() {
		if n := b.leaked(t); n != "0" {
			t.Errorf("%s packets to synthetic addresses left the host", n)
		}
	})
}

// leaked is how many packets to synthetic addresses have reached the network.
func (b *bed) leaked(t testing.TB) string {
	t.Helper()
	cmd := exec.Command(testutil.Program(t, "nft"), "list", "counter", "inet", "watch", "leaked")
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stdout
	err := b.net.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	count := regexp.MustCompile(`packets (\d+)`).FindSubmatch(stdout.Bytes())
	if err != nil || count == nil {
		t.Fatalf("%s: %v", &stdout, err)
	}
	return string(count[1])
}

// configure sets the agent's configuration.
func (b *bed) configure(t testing.TB) {
	t.Helper()
	files := b.authority.WriteFiles(t, b.folder, edgeName)
	b.config = config.Default()
	b.config.Profile = filepath.Join(b.folder, "profile.json")
	b.config.StateDir = filepath.Join(b.folder, "state")
	b.config.Kernel.Cgroup = b.cgroup
	b.config.Kernel.Lease = config.Duration(10 * time.Second) // on a busy machine
	b.config.Kernel.Pins = filepath.Join(testutil.BPFFS(t), "bpfacq")
	b.config.Relay.Drain = config.Duration(time.Second)
	b.config.Edges.Allow = []string{edgeName, "*.globalsecureaccess.microsoft.com"}
	b.config.Edges.CAFile = files.Roots
	b.config.Edges.Addresses = map[string]string{edgeName: edgeAddr}
	b.config.Packet.Uplinks = []string{} // names need no packet path
	b.config.Control.Socket = filepath.Join(b.folder, "control.sock")
	b.control = control.NewClient(b.config.Control.Socket)
	t.Cleanup(func() { // the agent was killed, if the test did not stop it
		if _, err := loader.Detach(b.config.Kernel.Pins); err != nil {
			t.Error(err)
		}
	})
}

func (b *bed) setProfile(t testing.TB, text []byte) {
	t.Helper()
	if err := os.WriteFile(b.config.Profile, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts an agent and returns when it acquires and its channel is up.
// From then on the host's files may not change.
func (b *bed) start(t testing.TB) {
	t.Helper()
	b.keepEtc(t)
	text, err := toml.Marshal(b.config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.folder, "bpfacq.toml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.agent = b.scenario(t, "agent", path)
	startReady(t, b.host, b.cgroup, b.agent)
	await(t, "a channel that is up", func() bool {
		status, err := b.control.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Channels[0].State == "up"
	})
}

// kill ends the agent without a chance to clean up.
func (b *bed) kill(t testing.TB) {
	t.Helper()
	if err := b.agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.agent.Wait() // says that it was killed
}

// startEdge starts bpfacq's own edge, which knows names below corp.example and
// vault.example, and returns when it listens.
func (b *bed) startEdge(t testing.TB) *exec.Cmd {
	t.Helper()
	order, err := json.Marshal(edgeOrder{
		Listen:      edgeAddr + ":443",
		Certificate: filepath.Join(b.folder, "certificate.pem"),
		Key:         filepath.Join(b.folder, "certificate.pem.key"),
		Allow:       []string{"*.corp.example:*", "*.vault.example:*"},
		Names: hosts{
			"web.corp.example":     netip.MustParseAddr("192.168.11.200"),
			"nowhere.corp.example": netip.MustParseAddr("192.168.11.201"),
			"safe.vault.example":   netip.MustParseAddr("192.168.11.202"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := testutil.ScenarioCommand(t, "edge", string(order))
	startReady(t, b.net, "", cmd)
	return cmd
}

// startReady starts a process and returns when it says that it is ready.
func startReady(t testing.TB, ns *netns.Namespace, cgroup string, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, ns, cgroup, cmd)
	var word string
	if _, err := fmt.Fscanln(stdout, &word); err != nil || word != "ready" {
		t.Fatalf("process says %q, want ready: %v", word, err)
	}
}

// web is a web site that says at which address it was reached.
func web(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s at %s", r.Host, r.Context().Value(http.LocalAddrContextKey))
}

// await returns once there is what noun says.
func await(t testing.TB, noun string, there func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for !there() {
		select {
		case <-retry.C:
		case <-ctx.Done():
			t.Fatalf("wait for %s: %v", noun, ctx.Err())
		}
	}
}

// program is a command on the host, with the host's own /etc.
func (b *bed) program(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return b.inside(testutil.Command(t, testutil.Program(t, name), args...))
}

// scenario is a scenario on the host, with the host's own /etc.
func (b *bed) scenario(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, name, args...)
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	return b.inside(cmd)
}

// inside gives a command the host's /etc, in a mount namespace of its own.
func (b *bed) inside(cmd *exec.Cmd) *exec.Cmd {
	const script = `mount --bind "$0" /etc && exec "$@"`
	cmd.Args = append([]string{"sh", "-c", script, b.etc, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr.Unshareflags |= unix.CLONE_NEWNS
	return cmd
}

// run runs a command among the host's applications, and returns what it writes
// and how it ended.
func (b *bed) run(t testing.TB, cmd *exec.Cmd) (string, error) {
	t.Helper()
	return b.output(t, b.cgroup, cmd)
}

// output is run in another cgroup; in none the hooks do not see the command.
func (b *bed) output(t testing.TB, cgroup string, cmd *exec.Cmd) (string, error) {
	t.Helper()
	return testutil.Output(t, b.host, cgroup, cmd)
}
