package resolver

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// numbered is the i-th of many names of a zone.
func numbered(i int, zone string) string { return fmt.Sprintf("n%05d.%s", i, zone) }

// censusScenario asks a server for the addresses of many names of a zone: its
// arguments are the server, the zone and how many. It keeps a few queries in
// flight, and prints how many addresses there are, how many of them in the pool,
// and a digest of who has which.
func censusScenario(args []string, stdout io.Writer) error {
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := dns.Conn{Conn: conn}
	addrs := make(map[string]string)
	const inFlight = 32
	for sent := 0; len(addrs) < count; {
		for ; sent < min(count, len(addrs)+inFlight); sent++ {
			m := new(dns.Msg).SetQuestion(dns.Fqdn(numbered(sent, args[1])), dns.TypeA)
			if err := c.WriteMsg(m); err != nil {
				return err
			}
		}
		m, err := c.ReadMsg()
		if err != nil {
			return fmt.Errorf("read answer %d of %d: %w", len(addrs), count, err)
		}
		if len(m.Answer) != 1 {
			return fmt.Errorf("read answer %d: %v", len(addrs), m)
		}
		addrs[m.Question[0].Name] = m.Answer[0].(*dns.A).A.String()
	}
	digest := sha256.New()
	inside := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		fmt.Fprintln(digest, name, addrs[name])
		if netip.MustParsePrefix(pool).Contains(netip.MustParseAddr(addrs[name])) {
			inside[addrs[name]] = true
		}
	}
	_, err = fmt.Fprintf(stdout, "%d names, %d synthetic addresses, digest %x", len(addrs), len(inside), digest.Sum(nil))
	return err
}

// perf is what dnsperf measured.
type perf struct {
	sent, lost, noerror int
	rate                float64
	latencies           []time.Duration // sorted
}

// at is the latency that a share of the queries does not exceed.
func (p perf) at(share float64) time.Duration {
	return p.latencies[min(len(p.latencies)-1, int(share*float64(len(p.latencies))))]
}

// dnsperf asks for every name of a file, at a rate. In no cgroup the hooks do not
// see it.
func (b *bed) dnsperf(t testing.TB, cgroup, names string, rate int) perf {
	t.Helper()
	cmd := b.program(t, "dnsperf", "-s", dnsmasqAddr, "-d", names, "-n", "1", "-Q", strconv.Itoa(rate), "-t", "10", "-v")
	text, err := b.output(t, cgroup, cmd)
	if err != nil {
		t.Fatalf("dnsperf: %v\n%s", err, text)
	}
	number := func(expression string) string {
		found := regexp.MustCompile(expression).FindStringSubmatch(text)
		if found == nil {
			return "0"
		}
		return found[1]
	}
	p := perf{}
	p.sent, _ = strconv.Atoi(number(`Queries sent:\s+(\d+)`))
	p.lost, _ = strconv.Atoi(number(`Queries lost:\s+(\d+)`))
	p.noerror, _ = strconv.Atoi(number(`NOERROR (\d+)`))
	p.rate, _ = strconv.ParseFloat(number(`Queries per second:\s+([\d.]+)`), 64)
	for line := range strings.Lines(text) {
		// > NOERROR name A 0.000123
		if words := strings.Fields(line); len(words) == 5 && words[0] == ">" {
			seconds, err := strconv.ParseFloat(words[4], 64)
			if err != nil {
				t.Fatalf("line %q of dnsperf: %v", line, err)
			}
			p.latencies = append(p.latencies, time.Duration(seconds*1e9))
		}
	}
	slices.Sort(p.latencies)
	if len(p.latencies) != p.sent-p.lost || p.sent == 0 {
		t.Fatalf("dnsperf shows %d latencies of %d queries, %d of them lost:\n%s", len(p.latencies), p.sent, p.lost, text[max(0, len(text)-2000):])
	}
	return p
}

// names writes a file of as many names as dnsperf wants it.
func (b *bed) names(t testing.TB, count int, zone string) string {
	t.Helper()
	var text strings.Builder
	for i := range count {
		fmt.Fprintf(&text, "%s A\n", numbered(i, zone))
	}
	return b.write(t, zone+".names", text.String())
}

// The first time each name is new; the second time it is known. The rate is one
// that any machine holds: make bench asks for more.
func TestTenThousandNamesAreAnsweredWithoutLoss(t *testing.T) {
	const count, rate = 10_000, 2000
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	acquired, ordinary := b.names(t, count, loadName), b.names(t, count, freeName)
	for _, names := range []string{acquired, acquired, ordinary} {
		p := b.dnsperf(t, b.cgroup, names, rate)
		if p.sent != count || p.lost != 0 || p.noerror != count {
			t.Errorf("%s: %d of %d queries lost, %d answered", filepath.Base(names), p.lost, p.sent, p.noerror)
		}
		t.Logf("%s: %.0f a second, p50 %v, p99 %v", filepath.Base(names), p.rate, p.at(0.5), p.at(0.99))
	}

	census := func() string {
		text, err := b.run(t, b.scenario(t, "census", net.JoinHostPort(dnsmasqAddr, "53"), loadName, strconv.Itoa(count)))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := census()
	if want := fmt.Sprintf("%d names, %d synthetic addresses, ", count, count); !strings.HasPrefix(before, want) {
		t.Errorf("got %q, want %s", before, want)
	}
	b.kill(t)
	b.start(t)
	if after := census(); after != before {
		t.Errorf("after a crash %q, before it %q", after, before)
	}
}
