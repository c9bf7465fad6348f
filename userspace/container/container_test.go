package container

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// host is a host's files.
type host struct {
	t       *testing.T
	folder  string
	options Options
}

func newHost(t *testing.T) *host {
	h := &host{t: t, folder: t.TempDir()}
	h.options = Options{
		Proc:       filepath.Join(h.folder, "proc"),
		Namespaces: filepath.Join(h.folder, "netns"),
		Docker:     filepath.Join(h.folder, "docker"),
		Podman:     filepath.Join(h.folder, "podman.json"),
		Libvirt:    filepath.Join(h.folder, "libvirt"),
	}
	h.process("self", "host", "0::/", "192.0.2.1")
	return h
}

func (h *host) write(path, content string) {
	h.t.Helper()
	path = filepath.Join(h.folder, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// link makes one file appear in two places, as a namespace does for its processes.
func (h *host) link(from, to string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(h.folder, to)), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Link(filepath.Join(h.folder, from), filepath.Join(h.folder, to)); err != nil {
		h.t.Fatal(err)
	}
}

// process adds a process to a namespace that has an IPv4 address.
func (h *host) process(pid, namespace, cgroup, addr string) {
	h.t.Helper()
	shared := filepath.Join("namespaces", namespace)
	if _, err := os.Stat(filepath.Join(h.folder, shared)); err != nil {
		h.write(filepath.Join(shared, "dev"), "")
		h.write(filepath.Join(shared, "net"), "")
	}
	at := filepath.Join("proc", pid)
	h.link(filepath.Join(shared, "dev"), filepath.Join(at, "net/dev"))
	h.link(filepath.Join(shared, "net"), filepath.Join(at, "ns/net"))
	h.write(filepath.Join(at, "cgroup"), cgroup+"\n")
	h.write(filepath.Join(at, "comm"), "sleep\n")
	h.write(filepath.Join(at, "net/fib_trie"), "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n"+
		"     |-- "+addr+"\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n")
}

func (h *host) inode(namespace string) uint64 {
	return inodeOf(filepath.Join(h.folder, "namespaces", namespace, "net"))
}

func (h *host) wantName(addr, want string) {
	h.t.Helper()
	from := netip.AddrPortFrom(netip.MustParseAddr(addr), 4711)
	got := New(h.options).Origin(flow.UDP, from, netip.MustParseAddrPort("198.51.100.1:53"))
	if want := (Origin{Source: from, Name: want}); got != want {
		h.t.Errorf("origin of %s is %+v, want %+v", addr, got, want)
	}
}

func TestContainersAreFoundByTheirAddresses(t *testing.T) {
	h := newHost(t)
	h.write("docker/"+id+"/config.v2.json", `{"Name": "/web", "State": {}}`)
	h.write("podman.json", `[{"id": "`+otherID+`", "names": ["db", "x"]}]`)
	h.process("10", "web", "0::/system.slice/docker-"+id+".scope", "172.17.0.2")
	h.process("11", "web", "0::/system.slice/docker-"+id+".scope", "172.17.0.2")
	h.process("20", "db", "0::/machine.slice/libpod-"+otherID+".scope", "10.88.0.2")
	h.process("30", "unnamed", "0::/docker/"+otherID, "172.17.0.3")
	h.process("40", "red", "0::/user.slice/session-1.scope", "10.1.0.2")
	h.link("namespaces/red/net", "netns/red")
	h.process("50", "vpn", "0::/system.slice/vpn.service", "10.2.0.2")
	h.process("60", "plain", "0::/", "10.3.0.2")
	h.process("70", "twin1", "0::/docker/"+id, "10.4.0.2")
	h.process("71", "twin2", "0::/docker/"+otherID, "10.4.0.2")

	h.wantName("172.17.0.2", "docker web")
	h.wantName("::ffff:172.17.0.2", "docker web")
	h.wantName("10.88.0.2", "podman db")
	h.wantName("172.17.0.3", "docker "+otherID[:12])
	h.wantName("10.1.0.2", "netns red")
	h.wantName("10.2.0.2", "service vpn.service")
	h.wantName("10.3.0.2", "process 60 (sleep)")
	h.wantName("10.4.0.2", "")    // of two namespaces
	h.wantName("192.0.2.1", "")   // the host's own
	h.wantName("127.0.0.1", "")   // everybody's
	h.wantName("192.0.2.255", "") // nobody's
	h.wantName("203.0.113.9", "")
}

func TestNamespacesAreNamedByTheirInodes(t *testing.T) {
	h := newHost(t)
	h.process("10", "web", "0::/docker/"+id, "172.17.0.2")
	r := New(h.options)
	if got := r.Namespace(h.inode("web")); got != "docker "+id[:12] {
		t.Errorf("namespace is %q", got)
	}
	for _, inode := range []uint64{0, 1, h.inode("host")} {
		if got := r.Namespace(inode); got != "" {
			t.Errorf("namespace %d is %q", inode, got)
		}
	}
}

func TestHostWithoutAnythingHasNoContainers(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nothing")
	r := New(Options{Proc: nowhere, Namespaces: nowhere, Docker: nowhere, Podman: nowhere, Libvirt: nowhere})
	from := netip.MustParseAddrPort("172.17.0.2:1")
	if got := r.Origin(flow.TCP, from, from); got != (Origin{Source: from}) {
		t.Errorf("origin is %+v", got)
	}
}

func TestAddressesOfBothFamiliesAreRead(t *testing.T) {
	h := newHost(t)
	h.process("10", "web", "0::/docker/"+id, "172.17.0.2")
	h.write("proc/10/net/if_inet6", "20010db8000000000000000000000002 02 40 00 80 eth0\n"+
		"fe80000000000000000000000000000a 02 40 20 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\nnonsense\n")
	h.wantName("2001:db8::2", "docker "+id[:12])
	h.wantName("fe80::a", "")
	h.wantName("::1", "")
}

func TestContainerThatStartsLaterIsFound(t *testing.T) {
	h := newHost(t)
	r := New(h.options)
	addr := netip.MustParseAddr("172.17.0.2")
	holds := func(p place) bool { return len(p.addrs) > 0 && p.addrs[0] == addr }
	if found := r.find(holds); len(found) != 0 {
		t.Fatalf("found %+v", found)
	}
	h.process("10", "web", "0::/docker/"+id, addr.String())
	if found := r.find(holds); len(found) != 0 {
		t.Errorf("found %+v at once: every flow would read all of /proc", found)
	}
	r.looked, r.took = r.looked.Add(-soon), time.Hour
	if found := r.find(holds); len(found) != 0 {
		t.Errorf("found %+v by a look that takes long: flows from nowhere would have it made without end", found)
	}
	r.took = 0
	if found := r.find(holds); len(found) != 1 {
		t.Errorf("found %+v after a while, want it", found)
	}
}

func TestAddressesAreBounded(t *testing.T) {
	h := newHost(t)
	h.process("10", "web", "0::/docker/"+id, "172.17.0.2")
	trie := "Local:\n"
	for i := range 4 * maxAddresses {
		trie += fmt.Sprintf("     |-- 10.0.%d.%d\n        /32 host LOCAL\n", i/256, i%256)
	}
	h.write("proc/10/net/fib_trie", trie)
	places := h.options.withDefaults().scan()
	if len(places) != 1 || len(places[0].addrs) != maxAddresses {
		t.Errorf("places are %+v", places)
	}
}

func TestForwardedFlowsAreNamed(t *testing.T) {
	h := newHost(t)
	h.process("10", "web", "0::/docker/"+id, "172.17.0.2")
	table := flow.NewTable(0)
	namer := NewNamer(New(h.options))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		namer.Run(ctx)
	}()
	rec := flow.Record{
		Protocol: flow.UDP, Forwarded: true,
		Source: netip.MustParseAddrPort("172.17.0.2:5000"), OrigDst: netip.MustParseAddrPort("198.51.100.1:53"),
	}
	live := table.Open(rec)
	namer.Name(live)
	for live.Flow().Container == "" {
		select {
		case <-t.Context().Done():
			t.Fatal("flow has no name")
		default:
			runtime.Gosched()
		}
	}
	if got := live.Flow().Container; got != "docker "+id[:12] {
		t.Errorf("flow is of %q", got)
	}
	rec.Forwarded = false
	local := table.Open(rec)
	namer.Name(local)
	cancel()
	<-done
	if got := local.Flow().Container; got != "" || len(namer.flows) != 0 {
		t.Errorf("a flow of the host itself is of %q", got)
	}
	for range 2 * pending { // nobody waits for the namer
		namer.Name(live)
	}
}
