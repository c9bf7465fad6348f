package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Trace is what became of one query that was asked for people.
type Trace struct {
	Name   string         // in lower case, without the final dot
	Type   string         // such as "A", or "TYPE65280"
	Server netip.AddrPort // that was meant to answer
	Steps  []Step         // in the order of time
	Code   string         // of the answer, such as "NOERROR"; empty if there is none
	// Records are those of the answer section, as master files write them.
	Records []string
	Outcome Outcome
	Cause   string // why there is no answer
	Took    time.Duration
}

// Step is one thing that was done about a query.
type Step struct {
	Kind StepKind
	Text string // for people: why, and what came of it

	Rule, Channel string // identifiers, of StepJudge

	// Of StepAsk.
	Server  netip.AddrPort
	Network string // "udp" or "tcp"
	Way     Way
	Code    string   // of its answer
	Records []string // of its answer section; for StepRewrite, what stands there now
	Cause   string   // why there was no answer
	Took    time.Duration
}

// StepKind says what was done.
type StepKind string

// What is done about a query.
const (
	StepJudge   StepKind = "judge"   // the policy was asked about the name
	StepPrivate StepKind = "private" // a private server was chosen
	StepAsk     StepKind = "ask"     // a server was asked
	StepAssign  StepKind = "assign"  // a name got its synthetic addresses
	StepRewrite StepKind = "rewrite" // the answer was made here
	StepPass    StepKind = "pass"    // the answer was passed on
)

// Ask does with a query what would be done with an application's by UDP, and
// tells each step. kind is a type such as "AAAA", or "TYPE65280". An invalid
// server is the one that was asked most. The error is about the question; no
// answer is a Trace with a Cause.
func (s *Server) Ask(ctx context.Context, name, kind string, server netip.AddrPort) (Trace, error) {
	number, err := parseKind(kind)
	if err != nil {
		return Trace{}, err
	}
	if !server.IsValid() {
		known := s.servers.status()
		at := slices.IndexFunc(known, func(s ServerStatus) bool { return s.Way != WayPrivate })
		if at < 0 {
			return Trace{}, errors.New("choose a server: none was asked yet")
		}
		server = known[at].Server
	}
	message, err := new(wire.Msg).SetQuestion(wire.Fqdn(name), number).SetEdns0(answerSize, false).Pack()
	if err != nil {
		return Trace{}, fmt.Errorf("ask for %q: %w", name, err)
	}
	q := &query{message: message, started: time.Now()}
	q.ask = ask{by: flow.Query{Server: server}, network: "udp", trace: new(tracer)}
	if _, _, done := q.inspect(); done {
		return Trace{}, fmt.Errorf("ask for %q: %w", name, errQuestion)
	}
	if !s.asking.wait(ctx, client{}) {
		return Trace{}, ctx.Err()
	}
	defer s.asking.release(client{})
	ctx, cancel := context.WithTimeout(ctx, s.limits.Timeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	answer, outcome := s.answer(ctx, q, s.plan(q))

	t := Trace{
		Name: q.name, Type: typeName(q.kind), Server: server, Steps: q.trace.all(), Outcome: outcome,
		Took: time.Since(q.started),
	}
	if answer == nil {
		t.Cause = "no answer: " + outcome.String()
		return t, nil
	}
	t.Code, t.Records = contents(answer)
	return t, nil
}

// parseKind reads the name of a type: RFC 1035, and RFC 3597, section 5.
func parseKind(kind string) (uint16, error) {
	if number, ok := wire.StringToType[strings.ToUpper(kind)]; ok {
		return number, nil
	}
	if digits, ok := strings.CutPrefix(strings.ToUpper(kind), "TYPE"); ok {
		if number, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return uint16(number), nil
		}
	}
	return 0, fmt.Errorf("parse type %q, want one such as A, AAAA or TYPE65280", kind)
}

func typeName(kind uint16) string { return wire.Type(kind).String() }

// contents shows an answer: its code, and the records of its answer section.
func contents(answer []byte) (code string, records []string) {
	var m wire.Msg
	if m.Unpack(answer) != nil {
		if len(answer) < headerSize {
			return "", nil
		}
		return wire.RcodeToString[int(flags(answer)&maskRcode)], nil
	}
	return shown(&m)
}

func shown(m *wire.Msg) (code string, records []string) {
	for _, rr := range m.Answer {
		records = append(records, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	if code = wire.RcodeToString[m.Rcode]; code == "" {
		code = fmt.Sprintf("RCODE%d", m.Rcode)
	}
	return code, records
}
