package tunnel

import "time"

// Receive windows, in bytes. A stream starts with streamWindow, and gets more
// while its reader keeps up and the window is what limits the edge. The
// connection's own window is returned on arrival: were it returned on reading,
// a few flows that nobody reads would stall all others. Thus a connection
// holds at most streamWindow for each stream and windowBudget for all growth.
const (
	streamWindow    = 64 << 10
	maxStreamWindow = 4 << 20
	windowBudget    = 16 << 20
	connWindow      = 16 << 20
	initialWindow   = 65535 // of a connection, RFC 9113 section 6.9.2
	maxWindow       = 1<<31 - 1
)

const (
	// assumedRTT serves until the first PING is answered.
	assumedRTT = 50 * time.Millisecond

	// minRTT is about what both ends need to run when their hosts are busy,
	// which no PING that was answered at once tells.
	minRTT = 10 * time.Millisecond
)

// window is the receive window of a stream.
type window struct {
	size   int       // bytes that may be on their way and unread
	left   int       // of these, what the edge may still send
	owed   int       // bytes read and not yet given back
	filled time.Time // when owed was last zero
}

// read counts n bytes as read and returns by how much to raise the edge's
// window, mostly zero. budget is what all windows of the connection may grow
// by, and is lowered by growth.
func (w *window) read(n int, rtt time.Duration, budget *int) int {
	w.owed += n
	if w.owed < w.size/2 {
		return 0
	}
	// Half a window within two round trips: the edge could have sent more,
	// had it been allowed to.
	now := time.Now()
	if now.Sub(w.filled) < 2*max(rtt, minRTT) {
		growth := min(w.size, maxStreamWindow-w.size, *budget)
		w.size += growth
		w.owed += growth
		*budget -= growth
	}
	raise := w.owed
	w.left += raise
	w.owed = 0
	w.filled = now
	return raise
}

// calm bounds the frames that cost work and carry nothing: PING, SETTINGS,
// empty DATA and the like.
type calm struct {
	count int
	since time.Time
}

// maxIdleFrames is how many such frames a second an edge may send.
const maxIdleFrames = 1000

// lost reports whether the edge sends more of them than any purpose explains.
func (c *calm) lost() bool {
	if c.count == 0 {
		c.since = time.Now()
	}
	if c.count++; c.count <= maxIdleFrames {
		return false
	}
	c.count = 0
	return time.Since(c.since) < time.Second
}
