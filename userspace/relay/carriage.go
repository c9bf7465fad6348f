package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// lingerBytes is how much an application may still write, into the void, while
// it is given the rest of an edge's answer. An edge that closes as a whole when
// its far side is done (most forward proxies do) would otherwise cut the answer
// of every protocol that acknowledges what it reads. It is about what a
// socket's buffers would have taken before the reset arrived.
const lingerBytes = 256 << 10

// lingerPause is how long an application has to take the end of such an answer
// out of its socket. Closing sooner would cut it: a connection that is closed
// answers whatever still comes with a reset, which drops what is not delivered.
const lingerPause = 30 * time.Second

// halfClosePause is how long an application that has half-closed is left alone
// before it is asked whether it is still there.
const halfClosePause = 30 * time.Second

// carriage is one flow that is being carried. Whatever aborts it cancels its
// context with the cause, once; the abort follows from that.
type carriage struct {
	application
	stream Stream
	cancel context.CancelCauseFunc

	ends     atomic.Uint32 // the bits below
	deafness error         // of the stream's Write; set before edgeDeaf is

	lingerPause    time.Duration
	halfClosePause time.Duration
	ask            *time.Timer // of the goroutine that reads the application
}

const (
	edgeDone        uint32 = 1 << iota // the edge half-closed, and the application knows
	edgeDeaf                           // the edge takes no more
	applicationDone                    // the application half-closed, and the edge knows
)

// carry copies both ways, one of them on a goroutine of its own, and releases
// both sides.
func (c *carriage) carry(ctx context.Context) flow.Outcome {
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		c.reset()
		c.stream.Reset()
	})

	var toEdge sync.WaitGroup
	toEdge.Go(c.carryToEdge)
	c.carryToApplication()
	toEdge.Wait()
	if c.ask != nil {
		c.ask.Stop()
	}

	orderly := stop()
	if orderly {
		c.close()
	} else {
		<-aborted
	}
	c.stream.Close()

	switch {
	case !orderly:
		return flow.Outcome{State: flow.StateReset, Cause: causeText(context.Cause(ctx))}
	case c.deafness != nil:
		return flow.Outcome{State: flow.StateReset, Cause: edgeReset(c.deafness).Error()}
	}
	return flow.Outcome{State: flow.StateClosed}
}

func edgeReset(err error) error { return fmt.Errorf("%w: %w", errEdge, err) }

// carryToEdge copies what the application sends, and its half-close.
func (c *carriage) carryToEdge() {
	err := c.sendTo(c.stream)
	switch {
	case c.readErr != nil:
		c.cancel(errApplication)
	case err != nil:
		c.deafness = err
		if c.ends.Or(edgeDeaf)&edgeDone != 0 {
			c.limitLinger()
		}
		c.linger()
	default:
		c.stream.CloseWrite() // an edge that takes no more also ends its own direction
		c.ends.Or(applicationDone)
		c.askAfterHalfClose()
	}
}

// askAfterHalfClose finds out, some time after the application's half-close,
// whether it still reads. One that has closed as a whole looks the same until it
// is written to, and an edge that does not pass half-closes on never writes: the
// flow would stay for ever. An application that waits for its answer, however
// long, answers keep-alives.
func (c *carriage) askAfterHalfClose() {
	c.ask = time.AfterFunc(c.halfClosePause, func() {
		// It fails only when the flow has ended meanwhile.
		_ = c.conn.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: c.halfClosePause, Interval: c.halfClosePause, Count: 3,
		})
	})
}

// linger discards what the application sends until it closes, so that it gets
// the rest of the answer.
func (c *carriage) linger() {
	switch _, err := io.CopyN(io.Discard, &c.application, lingerBytes); {
	case errors.Is(err, os.ErrDeadlineExceeded): // of limitLinger
	case err == nil:
		c.cancel(edgeReset(c.deafness))
	case c.readErr != nil:
		c.cancel(errApplication)
	}
}

// limitLinger starts the application's time once it has been sent all of the
// answer. Of the two directions, the one that ends last calls it.
func (c *carriage) limitLinger() {
	c.conn.SetReadDeadline(time.Now().Add(c.lingerPause)) // fails only when the flow has ended
}

// carryToApplication copies what the edge sends, and its half-close.
func (c *carriage) carryToApplication() {
	err := c.copyToApplication()
	switch {
	case c.writeErr != nil:
		c.cancel(errApplication)
	case err != nil:
		c.cancel(edgeReset(err))
	case c.ends.Load()&applicationDone != 0:
		// Closing the connection, which is next, is one system call less.
	default:
		c.conn.CloseWrite() // fails only when the application is gone, which its reader sees
		if c.ends.Or(edgeDone)&edgeDeaf != 0 {
			c.limitLinger()
		}
	}
}

func (c *carriage) copyToApplication() error {
	if from, ok := c.stream.(io.WriterTo); ok {
		_, err := from.WriteTo(&c.application)
		return err
	}
	return c.receiveFrom(c.stream)
}
