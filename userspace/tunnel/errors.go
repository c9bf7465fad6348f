package tunnel

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
)

var (
	// ErrReset matches the errors of a stream that the edge, or the
	// connection to it, broke off.
	ErrReset = errors.New("stream reset")

	// errUnanswered matches the errors of a CONNECT that may be sent again:
	// the edge has not looked at it, or its connection broke first. No byte
	// of the flow was sent.
	errUnanswered = errors.New("no answer to CONNECT")

	errWriteEnded     = errors.New("write after CloseWrite")
	errSilent         = errors.New("edge silent, PING unanswered")
	errNoHTTP2        = errors.New("edge speaks no HTTP/2")
	errDrained        = errors.New("connection drained")
	errIdle           = errors.New("surplus connection idle")
	errAuthorization  = errors.New("send proxy authorization: not a header value")
	errMalformed      = errors.New("malformed answer")
	errHeaderTooLarge = errors.New("header of the answer too large")
)

// Stage is how far the way to a stream led before it broke off.
type Stage uint8

// The stages, in order.
const (
	StageResolve Stage = iota + 1 // the edge's name to an address
	StageDial                     // a TCP connection to the edge
	StageTLS                      // the handshake, the edge's certificate included
	StageConnect                  // the answer to CONNECT
)

// String returns the stage in lower case, as channel states show it.
func (s Stage) String() string {
	switch s {
	case StageResolve:
		return "resolve"
	case StageDial:
		return "dial"
	case StageTLS:
		return "tls"
	case StageConnect:
		return "connect"
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}

// StageError says at which stage no stream came about. It unwraps to the
// cause, a context's among others.
type StageError struct {
	Stage Stage
	Err   error
}

// Error returns "stage: cause".
func (e *StageError) Error() string { return e.Stage.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// RefusedError is an edge's answer to CONNECT that is not 2xx: the edge is
// reached and well, and declines this stream.
type RefusedError struct {
	Status int    // HTTP status, three digits
	Body   string // the start of what the edge says about it; not to be trusted
}

// Error returns the status. The body is left out, since it is the edge's.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("edge refused CONNECT: status %d", e.Status)
}

const (
	snippetLen  = 512                    // of a refusal's body, in bytes
	snippetTime = 200 * time.Millisecond // to wait for it
)

// resetByEdge is the error of a stream that met RST_STREAM.
func resetByEdge(code http2.ErrCode) error {
	return fmt.Errorf("%w by the edge: %v", ErrReset, code)
}

// lost is the error of an agreed stream whose connection ended with cause.
func lost(cause error) error {
	return fmt.Errorf("%w: connection lost: %w", ErrReset, abrupt(cause))
}

// abrupt keeps the end of a connection from being taken for the end of a
// stream in order, which io.EOF stands for.
func abrupt(cause error) error {
	if errors.Is(cause, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return cause
}

// malformed is the error of an answer that breaks HTTP.
func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }
