package agent

import (
	"bufio"
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
			Kind: string(s.Kind), Text: s.Text, Network: s.Network,
			Code: s.Code, Records: s.Records, Cause: s.Cause, Took: s.Took.Seconds(),
		}
		if s.Server.IsValid() {
			hop.Server, hop.Way = s.Server.String(), s.Way.String()
		}
		shown.Hops = append(shown.Hops, hop)
	}
	return shown, nil
}

// firstServer is the first DNS server of the host that is not on the host itself:
// a stub there would ask once more. See resolv.conf(5).
func firstServer() netip.AddrPort {
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return netip.AddrPort{}
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil && !addr.IsLoopback() && addr.Zone() == "" {
			return netip.AddrPortFrom(addr.Unmap(), dnsPort)
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
