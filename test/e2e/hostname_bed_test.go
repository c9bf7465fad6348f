package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// The names and addresses of the tests on names.
const (
	resolverAddr = edgeAddr + ":53" // of the host's own resolver
	buildName    = "build.corp.example"
	buildAddr    = "192.0.2.2"          // as the host's resolver has it
	ghostName    = "ghost.corp.example" // only the edge knows it
	vaultName    = "safe.vault.example"
	openName     = "www.open.example"
	openAddr     = "192.0.2.2"

	privateServer = "192.168.11.53" // behind the edge
	privateName   = "wiki.private.example"
	privateAddr   = "192.168.11.77"

	firstSynthetic  = "6.6.0.1"
	secondSynthetic = "6.6.0.2"
)

// namesProfile tunnels port 80 of names below corp.example, which may be reached
// without an edge, and of vault.example, which must not.
func namesProfile(t testing.TB, changes ...string) string {
	t.Helper()
	const rule = `{"id":"%s","channelId":"` + sampleChannel + `","order":%d,"action":"Tunnel","hardening":"%s",` +
		`"matchingCriteria":{"address":{"ips":[],"fqdns":["%s"]},"ports":[{"start":80,"end":80}],"protocol":"Tcp"}}`
	rules := fmt.Sprintf(rule, "corp", 10, "Bypass", `.+\\.corp\\.example`) + "," +
		fmt.Sprintf(rule, "vault", 11, "Block", `.+\\.vault\\.example`) + "," +
		fmt.Sprintf(rule, "private", 12, "Block", `.+\\.private\\.example`)
	text := variant(t, `],"privateDnsRules":[]`, ","+rules+`],"privateDnsRules":[{"suffix":"private.example",`+
		`"dnsServerAddress":"`+privateServer+`","isSingleLabelSuffix":true}]`)
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(text, changes[i]); n != 1 {
			t.Fatalf("%q is in the profile %d times, want once", changes[i], n)
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	return text
}

// namesSite is a site whose profile has names, with a resolver that knows some
// of them. Each address in the network answers on port 80, and one on 8080.
func namesSite(t *testing.T) (*site, *nameServer) {
	t.Helper()
	s := newSite(t)
	s.setProfile(t, namesProfile(t))
	r := newNameServer(t, s.net, resolverAddr, map[string]string{buildName: buildAddr, openName: openAddr})
	testutil.Respond(t, s.net, "0.0.0.0:80", greet)
	testutil.Respond(t, s.net, buildAddr+":8080", greet)
	return s, r
}

// startNamesEdge starts an edge that allows what the profile of names tunnels.
func (s *site) startNamesEdge(t testing.TB) {
	t.Helper()
	s.startEdge(t, 443, "*.corp.example:80", "*.vault.example:80", "*.private.example:80", privateServer+":53")
}

// nameServer is a DNS server that knows names, over UDP and TCP.
type nameServer struct {
	stop func()

	mu    sync.Mutex
	known map[string]string
	asked map[string]int // "name type"
}

// newNameServer starts a resolver in a namespace that serves to the end of the test,
// or to stop.
func newNameServer(t testing.TB, ns *netns.Namespace, addr string, known map[string]string) *nameServer {
	t.Helper()
	r := &nameServer{known: known, asked: make(map[string]int)}
	var datagrams net.PacketConn
	var streams net.Listener
	err := ns.Do(func() (err error) {
		var config net.ListenConfig
		if datagrams, err = config.ListenPacket(context.Background(), "udp", addr); err != nil {
			return err
		}
		streams, err = config.Listen(context.Background(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	servers := []*dns.Server{{PacketConn: datagrams, Handler: r}, {Listener: streams, Handler: r}}
	var serving sync.WaitGroup
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() { server.ActivateAndServe() })
		<-started
	}
	r.stop = sync.OnceFunc(func() {
		for _, server := range servers {
			server.Shutdown()
		}
		serving.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

// ServeDNS implements dns.Handler.
func (r *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	r.mu.Lock()
	r.asked[name+" "+dns.TypeToString[question.Qtype]]++
	addr, ok := r.known[name]
	r.mu.Unlock()

	answer := new(dns.Msg).SetReply(q)
	switch {
	case !ok:
		answer.Rcode = dns.RcodeNameError
	case question.Qtype == dns.TypeA:
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300},
			A:   net.ParseIP(addr),
		}}
	}
	w.WriteMsg(answer)
}

// learn has the server know a name.
func (r *nameServer) learn(name, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[name] = addr
}

// count is how often a name was asked for by type.
func (r *nameServer) count(question string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[question]
}

// namesScenario is an application with a resolver of its own in Go, which asks the
// server of its first argument, by TCP if "tcp " stands before it, and from the
// device up0 if "up0 " does. Each other argument is a name, whose addresses it
// prints, an address for its names, or "name:port" to connect to, upon which it
// prints its peer and what that says. A failure is printed as what it is.
func namesScenario(args []string, stdout io.Writer) error {
	server, byTCP := strings.CutPrefix(args[0], "tcp ")
	server, bound := strings.CutPrefix(server, "up0 ")
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if byTCP {
			network = "tcp"
		}
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			if bound {
				raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "up0") })
			}
			return err
		}}
		dialer.SetMultipathTCP(false)
		return dialer.DialContext(ctx, network, server)
	}}
	for _, text := range args[1:] {
		ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
		answer, err := askName(ctx, resolver, text)
		cancel()
		if err != nil {
			answer = failureOf(err)
		}
		if _, err := fmt.Fprintln(stdout, answer); err != nil {
			return err
		}
	}
	return nil
}

func askName(ctx context.Context, r *net.Resolver, text string) (string, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		names, err := r.LookupAddr(ctx, addr.String())
		return strings.Join(names, " "), err
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		addrs, err := r.LookupNetIP(ctx, "ip", text)
		found := make(map[string]bool)
		for _, addr := range addrs {
			found[addr.Unmap().String()] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(found)), " "), err
	}
	dialer := net.Dialer{Resolver: r, FallbackDelay: -1}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort(host, port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(ioTimeout))
	said := make([]byte, 256)
	n, err := conn.Read(said)
	return fmt.Sprintf("peer %s to %s", conn.RemoteAddr(), strings.TrimSpace(string(said[:n]))), err
}

// failureOf names a failure without what differs from run to run.
func failureOf(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if failed, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case failed.IsNotFound:
			return "no such host"
		case failed.IsTimeout:
			return "timeout"
		}
		return failed.Err
	}
	return err.Error()
}

// names runs the names scenario on the host, which asks its own resolver.
func (s *site) names(t testing.TB, questions ...string) []string {
	t.Helper()
	return s.namesFrom(t, resolverAddr, questions...)
}

func (s *site) namesFrom(t testing.TB, server string, questions ...string) []string {
	t.Helper()
	answers := testutil.Child(t, s.host, s.cgroup, "names", append([]string{server}, questions...)...)
	return strings.Split(strings.TrimSuffix(answers, "\n"), "\n")
}

// wantNames fails the test unless questions, which alternate with answers, are
// answered so.
func (s *site) wantNames(t testing.TB, pairs ...string) {
	t.Helper()
	var questions, want []string
	for i := 0; i < len(pairs); i += 2 {
		questions, want = append(questions, pairs[i]), append(want, pairs[i+1])
	}
	if got := s.names(t, questions...); !slices.Equal(got, want) {
		t.Errorf("asked %q\ngot  %q\nwant %q", questions, got, want)
	}
}

// hostname returns what the agent knows of a name, or the zero value.
func (s *site) hostname(t testing.TB, name string) control.Hostname {
	t.Helper()
	list, err := s.control.Hostnames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list.Hostnames, func(h control.Hostname) bool { return h.Name == name })
	if i < 0 {
		return control.Hostname{}
	}
	return list.Hostnames[i]
}
