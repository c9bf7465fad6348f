package flow

import (
	"sync/atomic"
	"time"
)

// Live is one flow from its acceptance to its end. All methods may be called
// concurrently, and none waits for a lock but Close.
type Live struct {
	table          *Table
	id             uint64
	record         Record
	started        time.Time
	sent, received tally
	container      atomic.Pointer[string]
	route          atomic.Pointer[Route]
	end            atomic.Pointer[ending]
}

// tally counts what one side of a flow was sent.
type tally struct {
	bytes, datagrams atomic.Uint64
}

type ending struct {
	outcome Outcome
	at      time.Time
}

// ID returns the flow's number, unique in its table and ascending from 1.
func (l *Live) ID() uint64 { return l.id }

// Record returns what the kernel knew of the flow.
func (l *Live) Record() Record { return l.record }

// SetRoute notes which way the flow went.
func (l *Live) SetRoute(r Route) { l.route.Store(&r) }

// SetContainer notes where a forwarded flow comes from.
func (l *Live) SetContainer(name string) { l.container.Store(&name) }

// AddSent counts n bytes that the application sent.
func (l *Live) AddSent(n int) { l.sent.bytes.Add(uint64(n)) }

// AddReceived counts n bytes that the application was given.
func (l *Live) AddReceived(n int) { l.received.bytes.Add(uint64(n)) }

// AddSentDatagrams counts n datagrams that the application sent, with so many
// bytes of payload altogether.
func (l *Live) AddSentDatagrams(n, bytes int) { l.sent.add(n, bytes) }

// AddReceivedDatagrams counts n datagrams that the application was given, with
// so many bytes of payload altogether.
func (l *Live) AddReceivedDatagrams(n, bytes int) { l.received.add(n, bytes) }

func (t *tally) add(datagrams, bytes int) {
	t.datagrams.Add(uint64(datagrams))
	t.bytes.Add(uint64(bytes))
}

// Close ends the flow and moves it to the table's ended ones. Only the first
// call counts. Bytes that are added later are missing from the totals.
func (l *Live) Close(o Outcome) {
	if !l.end.CompareAndSwap(nil, &ending{outcome: o, at: time.Now()}) {
		return
	}
	l.table.retire(l)
}

// Flow returns the flow as it is now.
func (l *Live) Flow() Flow {
	f := Flow{
		ID:                l.id,
		Protocol:          l.record.Protocol,
		OrigDst:           l.record.OrigDst,
		Source:            l.record.Source,
		Forwarded:         l.record.Forwarded,
		Generation:        l.record.Generation,
		PID:               l.record.PID,
		UID:               l.record.UID,
		State:             StateActive,
		BytesSent:         l.sent.bytes.Load(),
		BytesReceived:     l.received.bytes.Load(),
		DatagramsSent:     l.sent.datagrams.Load(),
		DatagramsReceived: l.received.datagrams.Load(),
		Started:           l.started,
	}
	if name := l.container.Load(); name != nil {
		f.Container = *name
	}
	if r := l.route.Load(); r != nil {
		f.Name, f.Rule, f.Channel, f.Edge, f.Status = r.Name, r.Rule, r.Channel, r.Edge, r.Status
	}
	if e := l.end.Load(); e != nil {
		f.State, f.Cause, f.Ended = e.outcome.State, e.outcome.Cause, e.at
	}
	return f
}
