package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// DNSQuery implements control.Agent.
func (a *Agent) DNSQuery(ctx context.Context, q control.Question) (control.Trace, error) {
	server := a.queries.server.Load()
	g := a.names.current.Load()
	if server == nil || g == nil || !g.queried {
		return control.Trace{}, errors.New("ask query: " + a.DNS().Cause)
	}
	if !q.Server.IsValid() {
		q.Server = firstServer()
	}
	t, err := server.Ask(ctx, q.Name, q.Type, q.Server)
	if err != nil {
		return control.Trace{}, fmt.Errorf("%w: %w", control.ErrQuestion, err)
	}
	shown := control.Trace{
		Name: t.Name, Type: t.Type, Code: t.Code, Records: t.Records, Cause: t.Cause, Took: t.Took.Seconds(),
	}
	if t.Server.IsValid() {
		shown.Server = t.Server.String()
	}
	for _, s := range t.Steps {
		hop := control.Hop{
			Kind: string(s.Kind), Text: s.Text, Rule: s.Rule, Channel: s.Channel, Network: s.Network,
			Code: s.Code, Records: s.Records, Cause: s.Cause, Took: s.Took.Seconds(),
		}
		if s.Server.IsValid() {
			hop.Server, hop.Way = s.Server.String(), s.Way.String()
		}
		shown.Hops = append(shown.Hops, hop)
	}
	return shown, nil
}

// servers are the DNS servers that the host is set up with and that are not on the
// host itself: a stub there would ask once more. See resolv.conf(5), and for those
// behind systemd-resolved's stub systemd-resolved.service(8).
func servers() []netip.Addr {
	var all []netip.Addr
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "nameserver" {
				continue
			}
			if addr, err := netip.ParseAddr(words[1]); err == nil && !addr.IsLoopback() {
				all = append(all, addr.Unmap().WithZone(""))
			}
		}
	}
	return all
}

// firstServer is the server that is asked unless a person says which; the zero
// value if there is none.
func firstServer() netip.AddrPort {
	for _, addr := range servers() {
		if !addr.IsLinkLocalUnicast() {
			return netip.AddrPortFrom(addr, dnsPort)
		}
	}
	return netip.AddrPort{}
}

// queriesAnswered asks the DNS server for the name of a synthetic address, which
// takes nobody else. Only silence is an error.
func (a *Agent) queriesAnswered(ctx context.Context) error {
	g, server := a.names.current.Load(), a.queries.server.Load()
	if server == nil || g == nil || g.pool == nil {
		return nil
	}
	q, err := control.ParseQuestion(g.policy.Settings.SyntheticPool.Addr().String(), "", "")
	if err != nil {
		return nil // of no prefix
	}
	if _, err := server.Ask(ctx, q.Name, q.Type, netip.AddrPortFrom(netip.IPv6Unspecified(), dnsPort)); ctx.Err() != nil {
		return fmt.Errorf("ask own DNS server: %w", errors.Join(ctx.Err(), err))
	}
	return nil
}
