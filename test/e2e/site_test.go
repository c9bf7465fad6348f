package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/edge"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// Where things are on a site.
const (
	hostAddr       = "192.0.2.1"
	edgeAddr       = "192.0.2.2" // of every edge, each with a port of its own
	privateNetwork = "192.168.0.0/16"
	webAddr        = "192.168.11.200"
	diagnosticAddr = "192.168.11.250"
)

// What the sample profile names.
const (
	sampleEdge     = "xxxxxxxx-xxxx-xxxx-xxxx-92d6d4889ec8.private.client.globalsecureaccess.microsoft.com"
	sampleTenant   = "xxxxxxxx-xxxx-xxxx-xxxx-92d6d4889ec8"
	sampleChannel  = "xxxxxxxx-xxxx-xxxx-xxxx-2a8ff07f474c"
	sampleRule     = "xxxxxxxx-xxxx-xxxx-xxxx-a7240ed867b4"
	diagnosticHost = "private.edgediagnostic.globalsecureaccess.microsoft.com"
)

// Other edges, for profiles with more than one.
const (
	secondEdge = "second.edge.example"
	thirdEdge  = "third.edge.example"
)

// site is a host with an agent, and a private network to which it has no route:
// only an edge leads there. Everything is in force from newSite on but the edge
// and the agent, which tests start as they need them.
type site struct {
	host      *netns.Namespace
	net       *netns.Namespace // of the edges and the targets behind them
	cgroup    string           // of the agent and the applications
	pins      string
	folder    string // of the files of the agent and the edges
	authority *testutil.Authority
	files     testutil.Files // of every edge
	config    config.Config  // taken up by start
	control   *control.Client

	agent *exec.Cmd
	log   *transcript // of the agent
}

// newSite makes a site whose configuration has the sample profile, as it is, and
// its edge. At its end the host must be what it was, whatever happened. There is
// no packet path: what a site has of it is in newPacketSite.
func newSite(t testing.TB) *site {
	t.Helper()
	s := bareSite(t)
	testutil.Veth(t,
		netns.End{Namespace: s.host, Name: "up0", Addrs: []netip.Prefix{netip.MustParsePrefix(hostAddr + "/24")}},
		netns.End{Namespace: s.net, Name: "up0", Addrs: []netip.Prefix{netip.MustParsePrefix(edgeAddr + "/24")}})
	testutil.Unchanged(t, s.host)
	s.furnish(t)
	s.config.Packet.Uplinks = []string{}
	return s
}

// bareSite is a site whose host and network nothing connects yet.
func bareSite(t testing.TB) *site {
	t.Helper()
	return &site{
		host:      testutil.Netns(t),
		net:       testutil.Netns(t),
		cgroup:    testutil.Cgroup(t),
		pins:      filepath.Join(testutil.BPFFS(t), "bpfacq"),
		folder:    t.TempDir(),
		authority: testutil.NewAuthority(t),
	}
}

// furnish gives a site whose host and network are connected all the rest.
func (s *site) furnish(t testing.TB) {
	t.Helper()
	testutil.AnswerAll(t, s.net, netip.MustParsePrefix(privateNetwork))

	s.files = s.authority.WriteFiles(t, s.folder, sampleEdge, secondEdge, thirdEdge)
	s.config = config.Default()
	s.config.Profile = filepath.Join(s.folder, "profile.json")
	s.config.StateDir = filepath.Join(s.folder, "state")
	// Neither may end by itself because the machine is busy with something else.
	s.config.Kernel = config.Kernel{Cgroup: s.cgroup, Pins: s.pins, Lease: config.Duration(time.Minute)}
	s.config.Relay.Drain = config.Duration(time.Minute)
	s.config.Edges.Allow = []string{"*.globalsecureaccess.microsoft.com", "*.edge.example"}
	s.config.Edges.CAFile = s.files.Roots
	s.config.Edges.Addresses = map[string]string{sampleEdge: edgeAddr, secondEdge: edgeAddr, thirdEdge: edgeAddr}
	s.config.Control.Socket = filepath.Join(s.folder, "control.sock")
	s.setProfile(t, profile.Sample)
	s.control = control.NewClient(s.config.Control.Socket)

	testutil.HTTPS(t, s.net, diagnosticAddr+":443", s.authority, []string{diagnosticHost},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != edge.DiagnosticPath {
				http.NotFound(w, r)
			}
		}))
	t.Cleanup(func() { // the agent was killed, if the test did not stop it
		err := s.host.Do(func() error { // whose devices are looked at, too
			_, err := loader.Detach(s.pins)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// variant returns the sample profile without blanks and with changes, each an
// old text, which must be there once, and the new one.
func variant(t testing.TB, changes ...string) string {
	t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(profile.Sample)); err != nil {
		t.Fatal(err)
	}
	text := compact.String()
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(text, changes[i]); n != 1 {
			t.Fatalf("%q is in the profile %d times, want once", changes[i], n)
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	return text
}

func (s *site) setProfile(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(s.config.Profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeConfig writes the configuration and returns its path.
func (s *site) writeConfig(t testing.TB) string {
	t.Helper()
	text, err := toml.Marshal(s.config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.folder, "bpfacq.toml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command is the agent's, with what it logs in s.log.
func (s *site) command(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "agent", s.writeConfig(t))
	s.log = &transcript{}
	cmd.Stderr = io.MultiWriter(t.Output(), s.log)
	return cmd
}

// start starts an agent and returns when it acquires. Tests that leave it
// running leave its end to the cleanup.
func (s *site) start(t testing.TB) {
	t.Helper()
	s.agent = s.command(t)
	startReady(t, s.host, s.cgroup, s.agent)
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

// stop asks the agent to stop and waits for it. Nothing of the datapath may be
// left.
func (s *site) stop(t testing.TB) {
	t.Helper()
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.agent.Wait(); err != nil {
		t.Errorf("agent ends with %v", err)
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins of a stopped agent: %v, want none", err)
	}
}

// kill ends a process without a chance to clean up.
func kill(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // says that it was killed
}

// startEdge starts bpfacq's own edge, which allows destinations beside the
// diagnostic host, and returns when it listens.
func (s *site) startEdge(t testing.TB, port int, allow ...string) *exec.Cmd {
	t.Helper()
	return s.startEdgeSpeaking(t, offerHTTP2, port, allow...)
}

// startEdgeSpeaking is startEdge for an edge that offers more.
func (s *site) startEdgeSpeaking(t testing.TB, offer edgeOffer, port int, allow ...string) *exec.Cmd {
	t.Helper()
	args := []string{string(offer), fmt.Sprintf("%s:%d", edgeAddr, port), s.files.Certificate, s.files.Key, diagnosticHost + ":443"}
	cmd := testutil.ScenarioCommand(t, "edge", append(args, allow...)...)
	startReady(t, s.net, "", cmd)
	return cmd
}

// status asks the agent for its state.
func (s *site) status(t testing.TB) control.Status {
	t.Helper()
	status, err := s.control.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// awaitChannel returns the first channel once it is in a state.
func (s *site) awaitChannel(t testing.TB, state string) control.Channel {
	t.Helper()
	var ch control.Channel
	await(t, "a channel that is "+state, func() bool {
		ch = s.status(t).Channels[0]
		return ch.State == state
	})
	return ch
}

// endedFlow returns the last flow to an original destination once it has ended.
func (s *site) endedFlow(t testing.TB, to string) flow.Flow {
	t.Helper()
	var last flow.Flow
	await(t, "an ended flow to "+to, func() bool {
		list, err := s.control.Flows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = flow.Flow{}
		for _, f := range list.Flows {
			if f.OrigDst.String() == to && f.ID > last.ID {
				last = f
			}
		}
		return last.ID != 0 && last.State != flow.StateActive
	})
	return last
}

// connect runs the connect scenario on the host: how the peer is called and what
// it says first, or an errno.
func (s *site) connect(t testing.TB, to string) string {
	t.Helper()
	return strings.TrimSuffix(testutil.Child(t, s.host, s.cgroup, "connect", "plain", to), "\n")
}

// curl fetches a URL on the host. The answer ends with the peer as curl sees it.
func (s *site) curl(t testing.TB, url string, options ...string) (string, error) {
	t.Helper()
	args := append([]string{
		"--silent", "--show-error", "--max-time", "60", "--noproxy", "*",
		"--write-out", " peer %{remote_ip}:%{remote_port} status %{http_code}",
	}, options...)
	return testutil.Output(t, s.host, s.cgroup, testutil.Command(t, testutil.Program(t, "curl"), append(args, url)...))
}

// web is a web site that says at which address it was reached.
func web(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "web at %s", r.Context().Value(http.LocalAddrContextKey))
}

// fromWeb is what curl returns for a fetch from web.
func fromWeb(addr string) string { return fmt.Sprintf("web at %s peer %s status 200", addr, addr) }

// greet says at which address it was reached, and then waits for the end.
func greet(conn *net.TCPConn) {
	fmt.Fprintf(conn, "%s\n", conn.LocalAddr())
	io.Copy(io.Discard, conn)
}

// greeted is what the connect scenario prints for a connection to greet.
func greeted(addr string) string { return fmt.Sprintf("peer %s to %s", addr, addr) }

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

// transcript is what a process has written.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// count is how often a text was written.
func (w *transcript) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.text.String(), text)
}

// String is all of it.
func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}
