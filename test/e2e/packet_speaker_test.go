package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// speaker is an application with any number of UDP sockets, which does what it is
// told, one thing at a time.
type speaker struct {
	orders  io.Writer
	answers *bufio.Reader
}

// speaker starts an application in a namespace of the site.
func (s *packetSite) speaker(t testing.TB, ns *netns.Namespace) *speaker {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "speaker")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, ns, s.cgroup, cmd)
	return &speaker{stdin, bufio.NewReader(stdout)}
}

// do tells the speaker a line, words with blanks between them, and returns what
// came of it, or the errno.
func (p *speaker) do(t testing.TB, words ...any) string {
	t.Helper()
	if _, err := fmt.Fprintln(p.orders, words...); err != nil {
		t.Fatal(err)
	}
	answer, err := p.answers.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: speaker ends with %v", words, err)
	}
	return strings.TrimSuffix(answer, "\n")
}

// want ends the test unless what comes of a line is an answer: what does not
// answer now would have the rest of the test wait, too.
func (p *speaker) want(t testing.TB, answer string, words ...any) {
	t.Helper()
	if got := p.do(t, words...); got != answer {
		t.Fatalf("%v: got %q, want %q", words, got, answer)
	}
}

// echoed is what a speaker answers when so many bytes came back from an address.
func echoed(to string, size int) string { return fmt.Sprintf("%d bytes from %s", size, to) }

// speakerScenario does what the lines of its standard input say, until that ends.
// The second word of a line is the name of a socket.
func speakerScenario(_ []string, stdout io.Writer) error {
	sockets := make(map[string]*spoken)
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		words := strings.Fields(orders.Text())
		if len(words) < 2 {
			return fmt.Errorf("obey %q: says too little", orders.Text())
		}
		answer, err := obey(sockets, words[0], words[1], words[2:])
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			answer, err = unix.ErrnoName(errno), nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", orders.Text(), err)
		}
		if _, err := fmt.Fprintln(stdout, answer); err != nil {
			return err
		}
	}
	return orders.Err()
}

func obey(sockets map[string]*spoken, verb, name string, words []string) (string, error) {
	if verb == "open" {
		s, err := openSpoken(words[0], words[1:])
		sockets[name] = s
		return "opened", err
	}
	s := sockets[name]
	if s == nil {
		return "", fmt.Errorf("find socket %q: not opened", name)
	}
	do, ok := map[string]func(*spoken, []string) (string, error){
		"connect": (*spoken).connect, "send": (*spoken).send, "echo": (*spoken).echo, "ask": (*spoken).ask,
		"train": (*spoken).train, "spread": (*spoken).spread, "marked": (*spoken).marked, "close": (*spoken).close, "hear": (*spoken).hear,
		"pinned": (*spoken).pinned,
	}[verb]
	if !ok {
		return "", fmt.Errorf("obey %q: not known", verb)
	}
	return do(s, words)
}

// spoken is one UDP socket of a speaker.
type spoken struct {
	datagram
	buf []byte
}

// openSpoken makes a socket of a family, with options of datagramScenario and
// those that ask to be told more.
func openSpoken(family string, options []string) (*spoken, error) {
	s := &spoken{buf: make([]byte, 1<<16)}
	if err := s.open(strings.Join(append([]string{family}, options...), ",")); err != nil {
		return nil, err
	}
	return s, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
}

func (s *spoken) close([]string) (string, error) { return "closed", unix.Close(s.fd) }

func (s *spoken) connect(words []string) (string, error) {
	return "connected", unix.Connect(s.fd, s.sockaddr(words[0]))
}

// put sends a payload to an address, or, to "-", where the socket is connected to.
func (s *spoken) put(payload []byte, to string) error {
	if to == "-" {
		_, err := unix.Write(s.fd, payload)
		return err
	}
	return unix.Sendto(s.fd, payload, 0, s.sockaddr(to))
}

// send sends an address so many bytes.
func (s *spoken) send(words []string) (string, error) {
	payload, err := payloadOf(words[1])
	if err != nil {
		return "", err
	}
	return "sent", s.put(payload, words[0])
}

// echo sends so many bytes, and says how many of them came back and from where.
func (s *spoken) echo(words []string) (string, error) {
	payload, err := payloadOf(words[1])
	if err != nil {
		return "", err
	}
	if err := s.put(payload, words[0]); err != nil {
		return "", err
	}
	got, from, err := s.receive()
	if err != nil {
		return "", err
	}
	if string(got) != string(payload) {
		return fmt.Sprintf("%d other bytes from %s", len(got), from), nil
	}
	return echoed(from.String(), len(got)), nil
}

// hear waits so many milliseconds for a datagram, and returns what it says.
func (s *spoken) hear(words []string) (string, error) {
	pause, err := strconv.Atoi(words[0])
	if err != nil {
		return "", err
	}
	if err := s.waitFor(time.Duration(pause) * time.Millisecond); err != nil {
		return "", err
	}
	defer s.waitFor(answerTimeout)
	got, from, err := s.receive()
	return fmt.Sprintf("%d bytes from %s", len(got), from), err
}

func (s *spoken) waitFor(pause time.Duration) error {
	limit := unix.NsecToTimeval(int64(pause))
	return unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
}

// ask sends a word, and returns what is answered.
func (s *spoken) ask(words []string) (string, error) {
	if err := s.put([]byte(words[1]), words[0]); err != nil {
		return "", err
	}
	got, _, err := s.receive()
	return string(got), err
}

func (s *spoken) receive() ([]byte, netip.AddrPort, error) {
	var n int
	var from unix.Sockaddr
	err := uninterrupted(func() (err error) {
		n, from, err = unix.Recvfrom(s.fd, s.buf, 0)
		return err
	})
	return s.buf[:max(n, 0)], addrPortOf(from), err
}

// train sends in one call so many segments of a size, each a datagram, and counts
// those that come back whole.
func (s *spoken) train(words []string) (string, error) {
	size, err := strconv.Atoi(words[1])
	if err != nil {
		return "", err
	}
	count, err := strconv.Atoi(words[2])
	if err != nil {
		return "", err
	}
	whole := make([]byte, size*count)
	if _, err := io.ReadFull(noise(), whole); err != nil {
		return "", err
	}
	const udpSegment = 103 // UDP_SEGMENT of linux/udp.h
	if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, udpSegment, size); err != nil {
		return "", err
	}
	defer unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, udpSegment, 0)
	if err := s.put(whole, words[0]); err != nil {
		return "", err
	}
	missing := make(map[string]bool)
	for i := range count {
		missing[string(whole[i*size:][:size])] = true
	}
	for len(missing) != 0 {
		got, _, err := s.receive()
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return "", err
		}
		delete(missing, string(got))
	}
	return fmt.Sprintf("%d segments of %d bytes", count-len(missing), size), nil
}

// spread asks so many addresses, from a first one on, from this one socket, and
// counts those that answer for themselves. A few are under way at a time, and
// what is lost on a busy machine is sent again.
func (s *spoken) spread(words []string) (string, error) {
	first, err := netip.ParseAddrPort(words[0])
	if err != nil {
		return "", err
	}
	count, err := strconv.Atoi(words[1])
	if err != nil {
		return "", err
	}
	var waiting []string
	for addr := first.Addr(); len(waiting) < count; addr = addr.Next() {
		waiting = append(waiting, netip.AddrPortFrom(addr, first.Port()).String())
	}
	const window, tries = 64, 8
	if err := s.waitFor(4 * time.Second); err != nil {
		return "", err
	}
	for range tries {
		if waiting, err = s.gather(waiting, window); err != nil || len(waiting) == 0 {
			break
		}
	}
	return fmt.Sprintf("%d of %d answered", count-len(waiting), count), err
}

// gather asks addresses, and returns those that have not answered.
func (s *spoken) gather(addresses []string, window int) (silent []string, err error) {
	open := make(map[string]bool)
	for next := 0; next < len(addresses) || len(open) > 0; {
		for ; next < len(addresses) && len(open) < window; next++ {
			open[addresses[next]] = true
			if err := s.put([]byte(addresses[next]), addresses[next]); err != nil {
				return nil, err
			}
		}
		got, from, err := s.receive()
		if err == unix.EAGAIN {
			for address := range open {
				silent = append(silent, address)
			}
			clear(open)
			continue
		}
		if err != nil {
			return nil, err
		}
		if string(got) != from.String() {
			return nil, fmt.Errorf("answer of %s comes from %s", got, from)
		}
		delete(open, from.String())
	}
	return silent, nil
}

// payloadOf is noise of a size, which begins differently for each size.
func payloadOf(size string) ([]byte, error) {
	n, err := strconv.Atoi(size)
	if err != nil {
		return nil, err
	}
	payload := make([]byte, n)
	_, err = io.ReadFull(noise(), payload)
	copy(payload, size)
	return payload, err
}
