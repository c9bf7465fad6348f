package dns

import (
	"net/netip"
	"strconv"
	"strings"

	wire "github.com/miekg/dns"
)

// answerSize is the size of datagrams that answers made here say we take: what
// passes any network whole (DNS flag day 2020). Many take more.
const answerSize = 1232

// reply begins an answer that is made here: the question as it was asked, and
// the OPT record that a client with one is owed (RFC 6891, section 6.1.1).
// There is none for what is not a message.
func (q *query) reply(rcode int) (*wire.Msg, error) {
	asked := new(wire.Msg)
	if err := asked.Unpack(q.message); err != nil {
		return nil, err
	}
	m := new(wire.Msg)
	m.SetReply(asked)
	m.Rcode, m.RecursionAvailable, m.CheckingDisabled, m.Compress = rcode, true, asked.CheckingDisabled, true
	if opt := asked.IsEdns0(); opt != nil {
		m.SetEdns0(answerSize, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = wire.RcodeBadVers
		}
	}
	return m, nil
}

// packed is an answer as it is sent. The octets of the question are those of
// the query, whatever the case of its letters.
func (q *query) packed(m *wire.Msg) ([]byte, error) {
	answer, err := m.Pack()
	if err == nil && len(answer) >= q.end {
		copy(answer[headerSize:q.end], q.message[headerSize:q.end])
	}
	return answer, err
}

// failure is SERVFAIL with a reason (RFC 8914), for clients that can be told.
func (q *query) failure(code uint16, text string) []byte {
	m, err := q.reply(wire.RcodeServerFailure)
	if err != nil || q.end == 0 {
		return bare(q.message, wire.RcodeServerFailure)
	}
	if opt := m.IsEdns0(); opt != nil && m.Rcode == wire.RcodeServerFailure {
		opt.Option = append(opt.Option, &wire.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	answer, err := q.packed(m)
	if err != nil {
		return bare(q.message, wire.RcodeServerFailure)
	}
	q.trace.rewrote(m, text)
	return answer
}

// withAddress answers a query for an acquired name. The records stand at the
// name as it was asked for; what there is no record of is NODATA.
func (q *query) withAddress(address Address) ([]byte, error) {
	m, err := q.reply(wire.RcodeSuccess)
	if err != nil {
		return nil, err
	}
	if m.Rcode == wire.RcodeSuccess {
		owner := m.Question[0].Name
		any := q.kind == wire.TypeANY
		if address.IPv4.IsValid() && (any || q.kind == wire.TypeA) {
			m.Answer = append(m.Answer, &wire.A{Hdr: header(owner, wire.TypeA), A: address.IPv4.AsSlice()})
		}
		if address.IPv6.IsValid() && (any || q.kind == wire.TypeAAAA) {
			m.Answer = append(m.Answer, &wire.AAAA{Hdr: header(owner, wire.TypeAAAA), AAAA: address.IPv6.AsSlice()})
		}
		if len(m.Answer) == 0 {
			m.Ns = []wire.RR{denial(owner)}
		}
	}
	q.trace.rewrote(m, "the name is acquired")
	return q.packed(m)
}

// withName answers a query for the name of a synthetic address. An address of a
// pool that nobody has is no one else's here.
func (q *query) withName(name string) ([]byte, error) {
	m, err := q.reply(wire.RcodeSuccess)
	if err != nil {
		return nil, err
	}
	owner := m.Question[0].Name
	switch {
	case m.Rcode != wire.RcodeSuccess:
	case name == "":
		m.Rcode = wire.RcodeNameError
		m.Ns = []wire.RR{denial(owner)}
	default:
		m.Answer = []wire.RR{&wire.PTR{Hdr: header(owner, wire.TypePTR), Ptr: wire.Fqdn(name)}}
	}
	q.trace.rewrote(m, "the address is of a pool")
	return q.packed(m)
}

func header(owner string, kind uint16) wire.RR_Header {
	return wire.RR_Header{Name: owner, Rrtype: kind, Class: wire.ClassINET, Ttl: uint32(TTL.Seconds())}
}

// denial is the SOA record that lets a client remember that there is nothing:
// RFC 2308, section 3.
func denial(owner string) wire.RR {
	seconds := uint32(TTL.Seconds())
	return &wire.SOA{
		Hdr: header(owner, wire.TypeSOA), Ns: ".", Mbox: ".", Serial: 1,
		Refresh: seconds, Retry: seconds, Expire: seconds, Minttl: seconds,
	}
}

// fitted is an answer that came by TCP as a client that asked by UDP takes it:
// cut, with the bit that says so, if it is too long.
func (s *Server) fitted(answer, query []byte) []byte {
	size := wire.MinMsgSize
	asked, m := new(wire.Msg), new(wire.Msg)
	if len(answer) <= size {
		return answer
	}
	if asked.Unpack(query) == nil {
		if opt := asked.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	if len(answer) <= size {
		return answer
	}
	s.counters.count(OutcomeTruncated)
	if err := m.Unpack(answer); err == nil {
		m.Truncate(size)
		if cut, err := m.Pack(); err == nil && len(cut) <= size {
			return cut
		}
	}
	cut := bare(query, wire.RcodeSuccess)
	setWord(cut[2:], int(flags(cut)|flagTruncated))
	return cut
}

// renamed is a query with another name in its question.
func renamed(query []byte, name string) ([]byte, error) {
	m := new(wire.Msg)
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Question[0].Name = wire.Fqdn(name)
	return m.Pack()
}

// restored is the answer to a renamed query as that to the query that was
// renamed. What stands at the other name stands at the one that was asked for.
func restored(answer, query []byte, name string) ([]byte, error) {
	m, asked := new(wire.Msg), new(wire.Msg)
	if err := m.Unpack(answer); err != nil {
		return nil, err
	}
	if err := asked.Unpack(query); err != nil {
		return nil, err
	}
	other, own := wire.Fqdn(name), asked.Question[0].Name
	m.Question, m.Compress = asked.Question, true
	for _, section := range [][]wire.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if strings.EqualFold(rr.Header().Name, other) {
				rr.Header().Name = own
			}
		}
	}
	return m.Pack()
}

// reversed reads the address that a name of the reverse trees stands for: RFC
// 1035, section 3.5, and RFC 3596, section 2.5.
func reversed(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		var octets [4]byte
		n := len(octets)
		for label := range strings.SplitSeq(labels, ".") {
			octet, err := strconv.ParseUint(label, 10, 8)
			if err != nil || n == 0 || label != strconv.FormatUint(octet, 10) {
				return netip.Addr{}, false
			}
			n--
			octets[n] = byte(octet)
		}
		return netip.AddrFrom4(octets), n == 0
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	var octets [16]byte
	for i := range 32 {
		if i > 0 && labels[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		digit, err := strconv.ParseUint(labels[2*i:2*i+1], 16, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		octets[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(octets), true
}
