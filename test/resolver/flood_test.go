package resolver

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// floodScenario sends queries for ever new names to a server, from many sockets,
// until it is killed: its arguments are the server, a zone, and how many a second.
// It prints "ready" when it is at it, and reads no answer.
func floodScenario(args []string, stdout io.Writer) error {
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	// On a busy machine processors would be what others lack, and not the agent's answers.
	runtime.LockOSThread()
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10); err != nil {
		return err
	}
	const sockets, tick = 64, 10 * time.Millisecond
	var conns []net.Conn
	for range sockets {
		conn, err := net.Dial("udp", args[0])
		if err != nil {
			return err
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	begun := time.Now()
	for i := 0; ; i++ {
		// Full buffers and what ICMP says are no reason to stop.
		conns[i%sockets].Write(query(fmt.Sprintf("f%d.%s", i, args[1]), "A"))
		if i == sockets {
			if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
				return err
			}
		}
		if float64(i) > time.Since(begun).Seconds()*float64(rate) {
			<-time.After(tick)
		}
	}
}

// crowdScenario holds connections to a server until it is killed, each with the
// first byte of a query: its arguments are the server and how many. It prints
// "ready" when all are made or refused.
func crowdScenario(args []string, stdout io.Writer) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: uint64(count) + 100, Max: uint64(count) + 100}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	var conns []net.Conn
	for range count {
		conn, err := net.DialTimeout("tcp", args[0], time.Minute)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // turned away, as may come later too
		}
		if err != nil {
			return err
		}
		conn.Write([]byte{0})
		conns = append(conns, conn)
	}
	if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// hold starts a scenario of the host's that works until the end of the test.
func (b *bed) hold(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := b.scenario(t, name, args...)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	startReady(t, b.host, b.cgroup, cmd)
}

// residentBytes is the memory of the agent that is in RAM.
func (b *bed) residentBytes(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.agent.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kilobytes, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

// checkWell wants the agent to be alive, to answer others, if need be at one of
// some tries, and to have kept within bounds.
func (b *bed) checkWell(t *testing.T, tries int) {
	t.Helper()
	for _, way := range []string{wayConnected, waySendTo, wayTCP} {
		for _, name := range []string{webName, plainName} {
			for range 3 {
				if got := b.addressOf(t, way, name, tries); (name == plainName && got != plainAddr) || (name == webName && !inPool(got)) {
					t.Errorf("%s over %s is %s", name, way, got)
				}
			}
		}
	}
	if n := b.residentBytes(t); n > 256<<20 {
		t.Errorf("agent has %d MB in RAM", n>>20)
	}
}

// addressOf is the address of a name, or what came in its stead at the last of
// some tries.
func (b *bed) addressOf(t *testing.T, way, name string, tries int) (got string) {
	t.Helper()
	for range tries {
		got = b.ask(t, way, dnsmasqAddr, time.Second, query(name, "A"))[0]
		if m := parseOrNil(got); m != nil && len(m.Answer) == 1 {
			return m.Answer[0].(*dns.A).A.String()
		}
	}
	return got
}

func TestMalformedQueriesAreAnsweredOrDropped(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	good := query(webName, "A")
	header := func(questions uint16, rest ...byte) []byte {
		h := []byte{0x12, 0x34, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(h[4:], questions)
		return append(h, rest...)
	}
	twoQuestions := query(webName, "A", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
	answer := bytes.Clone(good)
	answer[2] |= 0x80
	for _, test := range []struct {
		name  string
		query []byte
		rcode int // -1 is silence
	}{
		{"one byte", []byte{0}, -1},
		{"half a header", good[:11], -1},
		{"an answer", answer, -1},
		{"two questions", twoQuestions, dns.RcodeRefused},
		{"65535 questions", header(65535, good[12:]...), dns.RcodeRefused},
		{"question that ends early", good[:len(good)-3], dns.RcodeFormatError},
		{"question that is not there", header(1), dns.RcodeFormatError},
		{"name that points at itself", header(1, 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"names that point at each other", header(1, 0xc0, 14, 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"name that points beyond", header(1, 0xff, 0xff, 0, 1, 0, 1), dns.RcodeFormatError},
		{"label of a reserved kind", header(1, 0x80, 1, 0, 0, 1, 0, 1), dns.RcodeFormatError},
		{"name that is too long", header(1, append(bytes.Repeat(append([]byte{63}, bytes.Repeat([]byte("a"), 63)...), 5), 0, 0, 1, 0, 1)...), dns.RcodeFormatError},
	} {
		for _, way := range []string{wayConnected, waySendTo} {
			got := b.ask(t, way, dnsmasqAddr, time.Second, test.query)[0]
			m := parseOrNil(got)
			switch {
			case test.rcode < 0 && got != "silence":
				t.Errorf("%s over %s: %s, want silence", test.name, way, got)
			case test.rcode >= 0 && (m == nil || m.Rcode != test.rcode || m.Id != 0x1234 || len(m.Answer) != 0):
				t.Errorf("%s over %s: %s, want %s", test.name, way, got, dns.RcodeToString[test.rcode])
			}
		}
	}
	t.Run("noise", b.makeNoise)
	b.checkWell(t, 1)
}

// parseOrNil is parse for what need not be an answer. One whose question the
// library cannot read is looked at by its header.
func parseOrNil(answer string) *dns.Msg {
	packed, err := hex.DecodeString(answer)
	if err != nil || len(packed) < 12 {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(packed) != nil {
		header := append(bytes.Clone(packed[:4]), make([]byte, 8)...)
		if m.Unpack(header) != nil {
			return nil
		}
	}
	return m
}

// makeNoise sends queries that have been changed at random, the same in every run.
func (b *bed) makeNoise(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 53))
	seeds := [][]byte{query(webName, "A"), query(plainName, "A", edns(1232, true)), query(webName, "HTTPS"), query("250.250.6.6.in-addr.arpa", "PTR")}
	var queries [][]byte
	for range 500 {
		changed := bytes.Clone(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(8) {
			changed[r.IntN(len(changed))] = byte(r.Uint32())
		}
		queries = append(queries, changed[:1+r.IntN(len(changed))])
	}
	for _, way := range []string{wayConnected, wayTCP} {
		b.ask(t, way, dnsmasqAddr, 10*time.Millisecond, queries...)
	}
}

// RFC 1035 lets a message be this long over TCP.
func TestMessageOf64KilobytesIsAnswered(t *testing.T) {
	b := newBed(t)
	b.startUnbound(t)
	b.startEdge(t)
	padded := func(name string) []byte {
		bare := len(query(name, "A", edns(1232, false, &dns.EDNS0_PADDING{})))
		return query(name, "A", edns(1232, false, &dns.EDNS0_PADDING{Padding: make([]byte, 65535-bare)}))
	}
	if n := len(padded(webName)); n != 65535 {
		t.Fatalf("query has %d bytes", n)
	}
	without := b.ask(t, wayTCP, unboundAddr, 10*time.Second, padded(plainName))
	b.start(t)
	with := b.ask(t, wayTCP, unboundAddr, 10*time.Second, padded(plainName))
	if diff := cmp.Diff(without, with); diff != "" || parseOrNil(with[0]) == nil {
		t.Errorf("answers differ:\n%s", diff)
	}
	answer := b.ask(t, wayTCP, unboundAddr, 10*time.Second, padded(webName))[0]
	if m := parseOrNil(answer); m == nil || len(m.Answer) != 1 || !inPool(m.Answer[0].(*dns.A).A.String()) {
		t.Errorf("%s, want a synthetic address", answer)
	}
}

// More than the agent or the server can take costs others some tries, as it would
// cost them without the agent. What waits for a server costs them nothing.
func TestOthersAreAnsweredWhileOneProcessFloods(t *testing.T) {
	for _, test := range []struct {
		name, zone, server string
		rate, tries        int
	}{
		{"with names of rules", loadName, dnsmasqAddr, 20_000, 20},
		{"with ordinary names", freeName, dnsmasqAddr, 20_000, 20},
		{"a server that does not answer", freeName, silentAddr, 2000, 1},
		{"a server that does not answer, with names of rules", loadName, silentAddr, 2000, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.startDnsmasq(t)
			b.silence(t)
			b.startEdge(t)
			b.start(t)
			b.addressOf(t, wayConnected, webName, 1) // new names may soon find no address left
			b.hold(t, "flood", net.JoinHostPort(test.server, "53"), test.zone, strconv.Itoa(test.rate))
			b.checkWell(t, test.tries)
		})
	}
}

func TestOthersAreAnsweredWhileOneProcessHoldsConnections(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	b.hold(t, "crowd", net.JoinHostPort(dnsmasqAddr, "53"), "1000")
	b.checkWell(t, 1)
}
