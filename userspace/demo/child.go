package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// output runs a command line to its end. It returns what a terminal would show,
// standard output and standard error in their order, and the exit status.
func (s *scene) output(ctx context.Context, at station, line []string) (text string, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var both bytes.Buffer
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = &both, &both
	if err := s.spawn(at, cmd); err != nil {
		return "", 0, err
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return both.String(), exit.ExitCode(), nil
	}
	return both.String(), 0, err
}

// program is a child process that runs until it is told to stop.
type program struct {
	name string
	cmd  *exec.Cmd
	log  journal
	done chan struct{} // closed when it has ended, and err is set
	err  error
}

// startProgram starts a program at the station. It is stopped with the scene at
// the latest.
func (s *scene) startProgram(at station, name string, line []string) (*program, error) {
	p := &program{name: name, cmd: exec.Command(line[0], line[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := s.spawn(at, p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	s.undo.later(func() error {
		p.kill()
		return nil
	})
	return p, nil
}

// stop tells the program to end and waits for it. The error says that it did not
// end well.
func (p *program) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("stop %s: %w", p.name, ctx.Err())
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w", p.name, p.err)
	}
	return nil
}

// kill ends the program at once and waits for it.
func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// until polls until ready says so, the program ends, or ctx is done.
func (p *program) until(ctx context.Context, ready func() bool) error {
	const poll = 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("wait for %s: %w: %v", p.name, errEnded, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
		}
	}
	return nil
}

// journal keeps the log of a program.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

// maxJournal is how many bytes of a log are kept: its beginning.
const maxJournal = 64 << 10

// Write takes all, and keeps what there is room for.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Write(p[:min(len(p), maxJournal-j.text.Len())])
	return len(p), nil
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
