package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Back-off after an error of accept(2): short at first, since a descriptor
// may be closed at any moment, and never longer than a user would wait.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Serve accepts until ctx is done or the Listener is closed, and calls carry
// for each connection, with its record, on a goroutine of its own. carry owns
// the connection. Serve returns when no goroutine of it is left, so also the
// last carry has returned; no error of accept(2) ends it.
func (l *Listener) Serve(ctx context.Context, carry func(*net.TCPConn, flow.Record)) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	var accepting, carrying sync.WaitGroup
	for _, s := range l.sockets {
		for range l.acceptors {
			accepting.Go(func() {
				l.accept(ctx, s, func(conn *net.TCPConn) {
					carrying.Go(func() { l.deliver(conn, carry) })
				})
			})
		}
	}
	accepting.Wait()
	carrying.Wait()
}

// accept takes connections from s until s is closed.
func (l *Listener) accept(ctx context.Context, s socket, deliver func(*net.TCPConn)) {
	pause := firstPause
	for {
		conn, err := s.AcceptTCP()
		switch {
		case err == nil:
			l.accepted.Add(1)
			pause = firstPause
			deliver(conn)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		// The connections wait in the backlog meanwhile.
		l.acceptErrors.Add(1)
		if pause == firstPause {
			l.log.Warn("accept paused", slog.Any("listener", s.Addr()), slog.Any("error", err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// deliver hands the connection to carry, or resets it: without a record nobody
// knows where it belongs, and a guess could leak it to another destination.
func (l *Listener) deliver(conn *net.TCPConn, carry func(*net.TCPConn, flow.Record)) {
	rec, err := l.lookup(conn)
	if err == nil {
		carry(conn, rec)
		return
	}
	l.noRecord.Add(1)
	l.log.Debug("reset connection without a record", slog.Any("peer", conn.RemoteAddr()), slog.Any("error", err))
	conn.SetLinger(0) // RST instead of FIN: the application must not take it for an answer
	conn.Close()
}

// lookUp asks origin for the record of a connection.
func lookUp(conn *net.TCPConn, origin Origin) (rec flow.Record, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return rec, err
	}
	controlErr := raw.Control(func(fd uintptr) { rec, err = origin.Lookup(int(fd)) })
	return rec, errors.Join(controlErr, err)
}
