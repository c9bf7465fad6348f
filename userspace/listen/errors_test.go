package listen

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// fakeSocket answers accept with errors, then waits until it is closed.
type fakeSocket struct {
	errs   chan error
	closed chan struct{}
}

func newFakeSocket(errs ...error) *fakeSocket {
	s := &fakeSocket{errs: make(chan error, len(errs)), closed: make(chan struct{})}
	for _, err := range errs {
		s.errs <- err
	}
	return s
}

func (s *fakeSocket) AcceptTCP() (*net.TCPConn, error) {
	select {
	case <-s.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case err := <-s.errs:
		return nil, err
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *fakeSocket) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (s *fakeSocket) Close() error {
	select {
	case <-s.closed:
		return net.ErrClosed
	default:
		close(s.closed)
		return nil
	}
}

// bindError is what Listen gets from the kernel.
func bindError(errno syscall.Errno) error {
	return &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)}
}

func TestAcceptErrorsPauseAndDoNotEndServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errs []error
		for range 10 {
			errs = append(errs, bindError(syscall.EMFILE))
		}
		var log bytes.Buffer
		s := newFakeSocket(errs...)
		l := &Listener{acceptors: 1, log: slog.New(slog.NewTextHandler(&log, nil)), sockets: []socket{s}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Serve(ctx, func(*net.TCPConn, flow.Record) { t.Error("carry called") })
		}()

		for _, step := range []struct {
			wait time.Duration
			want uint64
		}{
			{0, 1}, {5 * time.Millisecond, 2}, {9 * time.Millisecond, 2}, {time.Millisecond, 3},
			{1260 * time.Millisecond, 9}, {time.Second, 10},
		} {
			time.Sleep(step.wait) // of the bubble's clock
			synctest.Wait()
			if got := l.Counts(); got != (Counts{AcceptErrors: step.want}) {
				t.Errorf("after another %v counts are %+v, want %d errors", step.wait, got, step.want)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case <-done:
			t.Error("an error ended Serve")
		default:
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "too many open files") {
			t.Errorf("log has %d lines, want one for the row:\n%s", n, &log)
		}
		cancel()
		<-done
	})
}

func TestCanceledContextEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Listener{acceptors: 1, log: slog.New(slog.DiscardHandler), sockets: []socket{newFakeSocket(syscall.ENOMEM)}}
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		go func() {
			time.Sleep(time.Millisecond)
			cancel()
		}()
		l.Serve(ctx, func(*net.TCPConn, flow.Record) {})
		if waited := time.Since(start); waited != time.Millisecond {
			t.Errorf("Serve returned after %v, want at the cancellation", waited)
		}
	})
}

func TestListenWithoutIPv6(t *testing.T) {
	for _, test := range []struct {
		name  string
		errno syscall.Errno
	}{
		{"on loopback", syscall.EADDRNOTAVAIL},
		{"at all", syscall.EAFNOSUPPORT},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			l, err := listen(t.Context(), Options{Log: slog.New(slog.NewTextHandler(&log, nil))},
				func(_ context.Context, network, _ string) (socket, error) {
					if network == "tcp6" {
						return nil, bindError(test.errno)
					}
					return newFakeSocket(), nil
				})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if v4, v6 := l.AddrPorts(); !v4.IsValid() || v6.IsValid() {
				t.Errorf("listener has %v and %v, want IPv4 only", v4, v6)
			}
			if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "IPv4 only") {
				t.Errorf("log does not say so: %s", &log)
			}
		})
	}
}

func TestListenFailsAndLeavesNothingOpen(t *testing.T) {
	for _, test := range []struct {
		network, want string
	}{
		{"tcp4", "listen on IPv4 loopback: "},
		{"tcp6", "listen on IPv6 loopback: "},
	} {
		t.Run(test.network, func(t *testing.T) {
			s := newFakeSocket()
			l, err := listen(t.Context(), Options{}, func(_ context.Context, network, _ string) (socket, error) {
				if network == test.network {
					return nil, bindError(syscall.EMFILE)
				}
				return s, nil
			})
			if l != nil || !errors.Is(err, syscall.EMFILE) || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Listen returned %v, %v; want no listener and %q", l, err, test.want)
			}
			if test.network == "tcp6" {
				select {
				case <-s.closed:
				default:
					t.Error("IPv4 listener was left open")
				}
			}
		})
	}
}
