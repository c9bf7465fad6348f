package edge

import (
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

// limitedListener accepts only while fewer connections than its limit are
// open; more wait in the kernel's queue.
type limitedListener struct {
	net.Listener
	slots     chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
	open      sync.WaitGroup
	gauge     prometheus.Gauge
}

func limit(ln net.Listener, connections int, gauge prometheus.Gauge) *limitedListener {
	return &limitedListener{
		Listener: ln,
		slots:    make(chan struct{}, connections),
		closed:   make(chan struct{}),
		gauge:    gauge,
	}
}

// Accept waits for a slot, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.open.Add(1)
	l.gauge.Inc()
	return &accepted{Train: tlsrecord.Train{Conn: conn}, listener: l}, nil
}

// Close stops accepting. Open connections stay.
func (l *limitedListener) Close() error {
	err := net.ErrClosed
	l.closeOnce.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

// wait returns when every accepted connection is closed.
func (l *limitedListener) wait() { l.open.Wait() }

// accepted is a connection that gives its slot back when it is closed.
type accepted struct {
	tlsrecord.Train
	listener  *limitedListener
	closeOnce sync.Once
}

func (a *accepted) Close() error {
	err := net.ErrClosed
	a.closeOnce.Do(func() {
		err = a.Conn.Close()
		a.listener.gauge.Dec()
		<-a.listener.slots
		a.listener.open.Done()
	})
	return err
}

// reset closes the connection so that its peer sees a TCP reset.
func (a *accepted) reset() {
	if tcp, ok := a.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	a.Close()
}
