package synthetic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the process that is killed.
const (
	childWork = "BPFACQ_TEST_SYNTHETIC_WORK"
	childPath = "BPFACQ_TEST_SYNTHETIC_PATH"
)

// runChild does the work of a child, if the process is one.
func runChild() bool {
	works := map[string]func(path string) error{"many": assignMany, "reuse": reuseFew, "limited": outgrowLimit}
	work, ok := works[os.Getenv(childWork)]
	if !ok {
		return false
	}
	fmt.Println("started")
	if err := work(os.Getenv(childPath)); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	return true
}

// answer assigns an address, and says so when it may be told to applications.
func answer(p *Pool, name string) error {
	addr, err := p.Assign(context.Background(), name)
	if err == nil {
		_, err = fmt.Fprintf(os.Stdout, "%s %s\n", addr.IPv4, name)
	}
	return err
}

// assignMany gives addresses to old and new names, in many goroutines.
func assignMany(path string) error {
	p, err := Open(Options{Path: path, IPv4: wide})
	if err != nil {
		return err
	}
	defer p.Close()
	failed := make(chan error)
	for worker := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("w%d-%d-%d.example", worker, os.Getpid(), i)
				if i%2 == 1 {
					name = fmt.Sprintf("n%d.example", rand.N(2000))
				}
				if err := answer(p, name); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// reuseFew takes addresses from names all the time, so that the log is written
// anew all the time.
func reuseFew(path string) error {
	clock := newClock()
	p, err := Open(Options{Path: path, IPv4: tiny, Now: clock.Now, slack: 1})
	if err != nil {
		return err
	}
	defer p.Close()
	for {
		clock.advance(2 * Rest)
		if err := answer(p, fmt.Sprintf("n%d", rand.N(20))); err != nil {
			return err
		}
	}
}

// child is a running process, and the lines that it writes.
type child struct {
	command *exec.Cmd
	lines   *bufio.Reader
}

func startChild(t *testing.T, work, path string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{command: exec.CommandContext(t.Context(), self)}
	c.command.Env = append(os.Environ(), childWork+"="+work, childPath+"="+path)
	c.command.Stderr = os.Stderr
	out, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewReader(out)
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	if line := c.line(t); line != "started" {
		t.Fatalf("the child says %q", line)
	}
	return c
}

// line returns the next line, "" at the end.
func (c *child) line(t *testing.T) string {
	t.Helper()
	line, err := c.lines.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if strings.HasPrefix(line, "failed:") {
		t.Fatalf("the child %s", line)
	}
	return strings.TrimSuffix(line, "\n")
}

// kill ends the process after some answers and some time, and returns all of
// its answers.
func (c *child) kill(t *testing.T, after int, delay time.Duration) (answers []string) {
	t.Helper()
	for range after {
		answers = append(answers, c.line(t))
	}
	timer := time.AfterFunc(delay, func() { c.command.Process.Kill() })
	defer timer.Stop()
	for line := c.line(t); line != ""; line = c.line(t) {
		answers = append(answers, line)
	}
	err := c.command.Wait()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return answers
}

// round chooses when to kill: while the log is read or written anew, or in the
// middle of assigning.
func round(i int) (after int, delay time.Duration) {
	if i%3 == 0 {
		return 0, rand.N(15 * time.Millisecond)
	}
	return rand.N(100), rand.N(2 * time.Millisecond)
}

// owners reads a pool that nobody has open.
func owners(t *testing.T, opts Options) map[netip.Addr]string {
	t.Helper()
	p, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer closePool(t, p)
	found := make(map[netip.Addr]string)
	names := make(map[string]bool)
	for name, addr := range p.All() {
		if other, ok := found[addr.IPv4]; ok || names[name] {
			t.Errorf("%s is that of %s and %q", addr.IPv4, name, other)
		}
		found[addr.IPv4], names[name] = name, true
	}
	return found
}

func parseAnswer(t *testing.T, text string) (addr netip.Addr, name string) {
	t.Helper()
	first, name, _ := strings.Cut(text, " ")
	addr, err := netip.ParseAddr(first)
	if err != nil || name == "" {
		t.Fatalf("the child says %q", text)
	}
	return addr, name
}

func TestKilledProcessKeepsItsAnswers(t *testing.T) {
	pl := newPlace(t, wide)
	told := make(map[netip.Addr]string)
	for i := range 100 {
		after, delay := round(i)
		for _, text := range startChild(t, "many", pl.Path).kill(t, after, delay) {
			addr, name := parseAnswer(t, text)
			if before, ok := told[addr]; ok && before != name {
				t.Fatalf("round %d: %s was that of %s, and is told for %s", i, addr, before, name)
			}
			told[addr] = name
		}
		found := owners(t, pl.Options)
		for addr, name := range told {
			if found[addr] != name {
				t.Fatalf("round %d: %s was told for %s, and is now that of %q", i, addr, name, found[addr])
			}
		}
	}
	if strings.Contains(pl.said.String(), "WARN") {
		t.Errorf("the pool warned: %s", pl.said)
	}
	if len(told) == 0 {
		t.Error("no child answered")
	}
	t.Logf("%d answers kept", len(told))
}

// TestKilledProcessKeepsReusedAddresses allows one change a round that was
// recorded, and not told before the end.
func TestKilledProcessKeepsReusedAddresses(t *testing.T) {
	pl := newPlace(t, tiny)
	before := make(map[netip.Addr]string)
	told := 0
	for i := range 60 {
		after, delay := round(i)
		for _, text := range startChild(t, "reuse", pl.Path).kill(t, after, delay) {
			addr, name := parseAnswer(t, text)
			before[addr] = name
			told++
		}
		found := owners(t, pl.Options)
		changed := 0
		for addr, name := range found {
			if before[addr] != name {
				changed++
			}
		}
		if changed > 1 || len(found) < len(before) {
			t.Fatalf("round %d: %v became %v", i, before, found)
		}
		before = found
	}
	if strings.Contains(pl.said.String(), "WARN") {
		t.Errorf("the pool warned: %s", pl.said)
	}
	if told == 0 {
		t.Error("no child answered")
	}
	t.Logf("%d answers kept", told)
}

// outgrowLimit meets a limit of the kernel on the size of files: a write that
// ends in the middle.
func outgrowLimit(path string) error {
	signal.Ignore(unix.SIGXFSZ)
	p, err := Open(Options{Path: path, IPv4: wide})
	if err != nil {
		return err
	}
	defer p.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	for size := range uint64(3) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1000 * (size + 1), Max: limit.Max}); err != nil {
			return err
		}
		refused := false
		for i := 0; i < 1000 && !refused; i++ {
			err := answer(p, fmt.Sprintf("n%d-%d.example", size, i))
			refused = errors.Is(err, unix.EFBIG)
			if err != nil && !refused {
				return err
			}
		}
		if !refused {
			return fmt.Errorf("outgrow limit %d", size)
		}
	}
	return nil
}

func TestWriteThatTheKernelCutsIsUndone(t *testing.T) {
	pl := newPlace(t, wide)
	c := startChild(t, "limited", pl.Path)
	var want []string
	for line := c.line(t); line != ""; line = c.line(t) {
		want = append(want, line)
	}
	if err := c.command.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := logOf(want...); pl.text(t) != want || len(want) < 2900 || len(want) > 3000 {
		t.Errorf("the log of %d bytes is\n%s", len(pl.text(t)), pl.text(t))
	}
	wantNames(t, pl.pool(t), want...)
}
