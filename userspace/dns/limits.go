package dns

import (
	"cmp"
	"time"
)

// Limits bound what queries may cost. Zero fields get their defaults.
type Limits struct {
	Queries           int // in flight; default 4096
	QueriesPerProcess int // of one process, or of one address where that is not known; default 512

	Connections           int // of TCP clients; default 512
	ConnectionsPerProcess int // default 128

	Lookups   int // for originals of acquired names, in flight; default 1024
	Refreshes int // the part of Lookups that names may take that have an address already; default 256
	Pipes     int // connections to servers behind channels; default 64

	Timeout  time.Duration // for an answer from upstream; default 10 s, after which there is none
	Patience time.Duration // of a query for a new acquired name with its original; default 2 s
	Idle     time.Duration // of a connection; default 60 s
	Message  time.Duration // for the rest of a message that began to come by TCP; default 10 s
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Queries:               cmp.Or(l.Queries, 4096),
		QueriesPerProcess:     cmp.Or(l.QueriesPerProcess, 512),
		Connections:           cmp.Or(l.Connections, 512),
		ConnectionsPerProcess: cmp.Or(l.ConnectionsPerProcess, 128),
		Lookups:               cmp.Or(l.Lookups, 1024),
		Refreshes:             cmp.Or(l.Refreshes, 256),
		Pipes:                 cmp.Or(l.Pipes, 64),
		Timeout:               cmp.Or(l.Timeout, 10*time.Second),
		Patience:              cmp.Or(l.Patience, 2*time.Second),
		Idle:                  cmp.Or(l.Idle, 60*time.Second),
		Message:               cmp.Or(l.Message, 10*time.Second),
	}
}
