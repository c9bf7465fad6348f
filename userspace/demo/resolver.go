package demo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// resolver is a DNS server that knows a few names, says of all others that there
// are none, and remembers who asked for what.
type resolver struct {
	addrs   map[string]netip.Addr // by name, in lower case
	conn    net.PacketConn
	running sync.WaitGroup

	mu    sync.Mutex
	asked []question
}

// question is a name that a client asked for.
type question struct {
	client netip.Addr
	name   string
}

// openResolver listens on UDP port 53 of addr in ns and answers until close.
func openResolver(ctx context.Context, ns *netns.Namespace, addr string, addrs map[string]netip.Addr) (*resolver, error) {
	conn, err := ns.ListenPacket(ctx, "udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		return nil, fmt.Errorf("open resolver: %w", err)
	}
	r := &resolver{addrs: addrs, conn: conn}
	r.running.Go(r.serve)
	return r, nil
}

func (r *resolver) close() error {
	err := r.conn.Close()
	r.running.Wait()
	return err
}

func (r *resolver) serve() {
	packet := make([]byte, dns.MaxMsgSize)
	for {
		n, client, err := r.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		query := new(dns.Msg)
		if query.Unpack(packet[:n]) != nil || query.Response || len(query.Question) != 1 {
			continue
		}
		r.note(client, query)
		if answer, err := r.answer(query).Pack(); err == nil {
			r.conn.WriteTo(answer, client)
		}
	}
}

// answer has the address for A, nothing for other types, and for other names
// that there are none.
func (r *resolver) answer(query *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetReply(query)
	q := query.Question[0]
	addr, known := r.addrs[plainName(q.Name)]
	switch {
	case !known:
		answer.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
		answer.Answer = []dns.RR{&dns.A{Hdr: header, A: addr.AsSlice()}}
	}
	return answer
}

func (r *resolver) note(client net.Addr, query *dns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := client.(*net.UDPAddr).AddrPort().Addr().Unmap()
	r.asked = append(r.asked, question{from, plainName(query.Question[0].Name)})
}

// clients lists who asked for a name, each once.
func (r *resolver) clients(name string) []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []netip.Addr
	for _, q := range r.asked {
		if q.name == name && !slices.Contains(found, q.client) {
			found = append(found, q.client)
		}
	}
	return found
}

func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
