package bench

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// order is what the bench asks of a child process, as one JSON object.
type order struct {
	Do      string         // the name of a skill
	To      netip.AddrPort // the target
	Flows   int            // at the same time
	For     time.Duration
	Warm    time.Duration // not measured, before
	Counter int           // any other number
	Path    string
}

// answer is what came of an order.
type answer struct {
	Count   float64 // connections, round trips or bytes
	Elapsed time.Duration
	Median  time.Duration // of one of them, where that is measured
	P99     time.Duration
	Failure string
}

// skills are what a child process can do.
type skills map[string]func(order) (answer, error)

// obey carries out orders until standard input ends. Its first answer, before
// any order, says that the child is ready.
func obey(stdout io.Writer, known skills) error {
	answers, orders := json.NewEncoder(stdout), json.NewDecoder(os.Stdin)
	if err := answers.Encode(answer{}); err != nil {
		return err
	}
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return ignoreEOF(err)
		}
		do, ok := known[o.Do]
		if !ok {
			do = commonSkills()[o.Do]
		}
		a, err := do(o)
		if err != nil {
			a.Failure = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// commonSkills are those of every child that is written in Go.
func commonSkills() skills {
	return skills{
		"collect": func(order) (answer, error) {
			debug.FreeOSMemory()
			return answer{}, nil
		},
		"profile": func(o order) (answer, error) {
			if o.Path == "" {
				pprof.StopCPUProfile()
				return answer{}, nil
			}
			f, err := os.Create(o.Path)
			if err != nil {
				return answer{}, err
			}
			return answer{}, pprof.StartCPUProfile(f) // which keeps f until the process ends
		},
	}
}

// raiseFiles makes room for flows in this process, each an open file.
func raiseFiles(flows int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = uint64(flows) + 1000
	limit.Max = max(limit.Max, limit.Cur)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// child is a process of the bed. Only one that obeys has orders.
type child struct {
	role    string
	process *os.Process
	orders  *json.Encoder
	answers *json.Decoder
}

// startChild starts a scenario of this binary and waits until it is ready.
func startChild(t testing.TB, ns *netns.Namespace, cgroup, role, scenario string, args ...string) *child {
	t.Helper()
	return startObeying(t, ns, cgroup, role, testutil.ScenarioCommand(t, scenario, args...))
}

// startObeying starts a command that runs a scenario which obeys.
func startObeying(t testing.TB, ns *netns.Namespace, cgroup, role string, cmd *exec.Cmd) *child {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := startProgram(t, ns, cgroup, role, cmd)
	c.orders, c.answers = json.NewEncoder(stdin), json.NewDecoder(stdout)
	c.hear(t)
	return c
}

// startProgram starts a program that takes no orders.
func startProgram(t testing.TB, ns *netns.Namespace, cgroup, role string, cmd *exec.Cmd) *child {
	t.Helper()
	testutil.Start(t, ns, cgroup, cmd)
	return &child{role: role, process: cmd.Process}
}

func (c *child) ask(t testing.TB, o order) answer {
	t.Helper()
	if err := c.orders.Encode(o); err != nil {
		t.Fatalf("%s: %v", c.role, err)
	}
	return c.hear(t)
}

func (c *child) hear(t testing.TB) answer {
	t.Helper()
	var a answer
	if err := c.answers.Decode(&a); err != nil {
		t.Fatalf("%s: %v", c.role, err)
	}
	if a.Failure != "" {
		t.Fatalf("%s: %s", c.role, a.Failure)
	}
	return a
}

// processorTime is what the process has used so far, by the clock of
// clock_getcpuclockid(3).
func (c *child) processorTime(t testing.TB) time.Duration {
	t.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED: user and system time, to the nanosecond
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^c.process.Pid<<3|scheduled), &ts); err != nil {
		t.Fatalf("read processor time of %s: %v", c.role, err)
	}
	return time.Duration(ts.Nano())
}

// residentBytes is the memory of the process that is in RAM, as the kernel has it.
func (c *child) residentBytes(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(c.process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.Atoi(strings.Fields(size)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatalf("resident size of %s is not known", c.role)
	return 0
}
