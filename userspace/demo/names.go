package demo

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/profile"
)

// The names of the demo, and who knows them.
const (
	// intranetName is known to the intranet's resolver alone. The demo's own rule
	// tunnels it.
	intranetName = "wiki.corp.example"

	// publicName is known to the host's resolver. A rule of the sample profile
	// bypasses it.
	publicName = "aps.globalsecureaccess.microsoft.com"
	publicAddr = "10.99.0.80"
)

// nameRule comes after the rules of the sample profile.
const nameRule = `
            {
                "id": "demo-names",
                "channelId": "xxxxxxxx-xxxx-xxxx-xxxx-2a8ff07f474c",
                "order": 3.0,
                "action": "Tunnel",
                "hardening": "Bypass",
                "matchingCriteria": {
                    "address": {"ips": [], "fqdns": [".+\\.corp\\.example"]},
                    "ports": [{"start": 80, "end": 80}],
                    "protocol": "Tcp"
                }
            }`

// withNameRule is the sample profile with one rule more.
func withNameRule() (string, error) {
	const end = "\n        ],\n        \"privateDnsRules\""
	rules, rest, found := strings.Cut(profile.Sample, end)
	if !found {
		return "", fmt.Errorf("find the last rule of the sample profile: %w", errAbsent)
	}
	return rules + "," + nameRule + end + rest, nil
}

// openResolvers starts the host's resolver and the intranet's.
func (s *scene) openResolvers(ctx context.Context) (err error) {
	s.public, err = openResolver(ctx, s.network.edge, publicResolver, map[string]netip.Addr{
		publicName: netip.MustParseAddr(publicAddr),
	})
	if err != nil {
		return err
	}
	s.undo.later(s.public.close)

	s.private, err = openResolver(ctx, s.network.intranet, intranetAddr, map[string]netip.Addr{
		intranetName: netip.MustParseAddr(intranetAddr),
	})
	if err != nil {
		return err
	}
	s.undo.later(s.private.close)
	return nil
}

// showNames shows how a name that only the intranet knows is acquired.
func (s *scene) showNames(ctx context.Context) error {
	for _, st := range []step{
		{
			shows: "A rule names " + intranetName + ". Now the host has an address for it, though its resolver has none.",
			at:    s.host, line: []string{"getent", "hosts", intranetName},
			want: []string{syntheticPrefix, intranetName},
		},
		{
			shows: "What is sent there goes to the edge by name.",
			at:    s.host, line: []string{"curl", "-sS", "http://" + intranetName + "/"},
			want: []string{"Hello " + edgeInside + ", this is " + intranetAddr + ":80."},
		},
	} {
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	if err := s.showClients(); err != nil {
		return err
	}
	for _, st := range []step{
		{
			shows: "A name that an earlier rule bypasses has the address that the host's resolver knows.",
			at:    s.host, line: []string{"getent", "hosts", publicName},
			want: []string{publicAddr}, wantNot: []string{syntheticPrefix},
		},
		{
			shows: "The names that were asked for.",
			at:    s.host, line: ask("hostnames"), wide: true,
			want: []string{intranetName, syntheticPrefix, publicName, publicAddr},
		},
	} {
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// showClients shows who asked which resolver for the intranet's name: the host its
// own, in vain, and the edge, which was given the name, the intranet's.
func (s *scene) showClients() error {
	s.screen.comment("So the edge asked its own resolver for " + intranetName + ", and only the edge did:")
	rows := [][]string{{"RESOLVER", "ASKED BY", "ANSWER"}}
	for _, asked := range []struct {
		resolver     *resolver
		name, answer string
		client       string
	}{
		{s.public, "the host's, " + publicResolver, "no such name", hostAddr},
		{s.private, "the edge's, " + intranetAddr, intranetAddr, edgeInside},
	} {
		clients := fmt.Sprint(asked.resolver.clients(intranetName))
		if want := "[" + asked.client + "]"; clients != want {
			return fmt.Errorf("find out who asked %s for %s: got %s, want %s", asked.name, intranetName, clients, want)
		}
		rows = append(rows, []string{asked.name, asked.client, asked.answer})
	}
	s.screen.table(rows)
	return s.screen.err
}
