package dns

import (
	"fmt"
	"iter"
	"sync/atomic"
)

// Outcome says what became of a query or, for those from OutcomeStray on, of
// something else that is worth counting.
type Outcome uint8

// What becomes of a query: each has one of these in the end.
const (
	OutcomeForwarded      Outcome = iota // the answer of the server that was asked was passed on
	OutcomeTunneled                      // the same through a channel
	OutcomePrivate                       // a private server answered
	OutcomeSynthetic                     // answered here, about an acquired name or a synthetic address
	OutcomeTimeout                       // nobody answered, so nobody was answered
	OutcomeUnreachable                   // SERVFAIL: the network or the channel does not lead to the server
	OutcomeBlocked                       // SERVFAIL: the server's channel is down, and hardening blocks
	OutcomePoolFull                      // SERVFAIL: no synthetic address was left
	OutcomeUnassigned                    // SERVFAIL: a synthetic address was not recorded
	OutcomeRefused                       // REFUSED: several questions
	OutcomeUnparsable                    // FORMERR: no question that can be read
	OutcomeMalformed                     // dropped: not even a header
	OutcomeResponse                      // dropped: no query but a response
	OutcomeOversized                     // dropped: longer than a query by UDP is
	OutcomeUnknownAsker                  // dropped: not brought here by the kernel's programs
	OutcomeLimited                       // dropped: too many in flight
	OutcomeProcessLimited                // dropped: too many in flight of one process
	OutcomeUnsent                        // there was an answer, and nobody to take it
	OutcomeCanceled                      // the server ended first

	OutcomeStray                    // an answer that nobody asked for was ignored
	OutcomeTruncated                // an answer was cut to what the client takes
	OutcomeConnectionLimited        // a TCP connection was closed: too many
	OutcomeConnectionProcessLimited // a TCP connection was closed: too many of one process
	OutcomeConnectionIdle           // a TCP connection was closed: nothing came, or half a message
	OutcomeConnectionUnreachable    // a TCP connection was reset: its server is not to be had
	OutcomeRefreshed                // the original of a name that was answered at once was asked for again
	OutcomeLookupLimited            // an original was not asked for: too many in flight
	outcomes
)

// Outcomes yields all of them.
func Outcomes() iter.Seq[Outcome] {
	return func(yield func(Outcome) bool) {
		for o := range outcomes {
			if !yield(o) {
				return
			}
		}
	}
}

// String returns the outcome's name, as metrics have it.
func (o Outcome) String() string {
	names := [outcomes]string{
		"forwarded", "tunneled", "private", "synthetic", "timeout", "unreachable", "blocked", "pool_full", "unassigned",
		"refused", "unparsable", "malformed", "response", "oversized", "unknown_asker", "limited", "process_limited",
		"unsent", "canceled",
		"stray", "truncated", "connection_limited", "connection_process_limited", "connection_idle",
		"connection_unreachable", "refreshed", "lookup_limited",
	}
	if o < outcomes {
		return names[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// counters count outcomes.
type counters [outcomes]atomic.Uint64

func (c *counters) count(o Outcome) { c[o].Add(1) }

// way returns whose latency the time counts for that led to an outcome.
func (o Outcome) way() (w Way, ok bool) {
	switch o {
	case OutcomeForwarded:
		return WayDirect, true
	case OutcomeTunneled:
		return WayTunnel, true
	case OutcomePrivate:
		return WayPrivate, true
	case OutcomeSynthetic:
		return WaySynthetic, true
	}
	return 0, false
}
