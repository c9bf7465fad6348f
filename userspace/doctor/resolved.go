package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
)

// checkResolved looks at systemd-resolved, which may check answers or hide
// queries. It runs if it has a cgroup: to ask the bus would start it.
func checkResolved(ctx context.Context, x *examination) []Finding {
	if x.naming() == nil {
		return nil
	}
	const unit = "/system.slice/systemd-resolved.service"
	if _, err := fs.Stat(x.Root, rooted(x.cgroup2Root()+unit)); err != nil {
		return []Finding{fine("it does not run")}
	}
	var all []Finding
	for _, setting := range []struct {
		verb, name, effect, remedy string
	}{
		{
			"dnssec", "DNSSEC", "it refuses synthetic addresses for names of signed zones",
			"set DNSSEC=no, or name their zones as negative trust anchors: dnssec-trust-anchors.d(5)",
		}, {
			"dnsovertls", "DNSOverTLS", "it asks by TLS, and no name that it looks up is acquired",
			"set DNSOverTLS=no",
		},
	} {
		out, err := x.Run(ctx, "resolvectl", setting.verb)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return []Finding{{State: StateUnknown, Cause: "systemd-resolved runs, and its program resolvectl is not there", Remedy: "install resolvectl"}}
		case err != nil:
			all = append(all, x.unknown("", fmt.Errorf("ask systemd-resolved: %w", err)))
			continue
		}
		sure, maybe := settings(string(out))
		if len(sure) > 0 {
			all = append(all, warned(setting.remedy, "%s is on for %s: %s", setting.name, strings.Join(sure, ", "), setting.effect))
		}
		if len(maybe) > 0 {
			all = append(all, warned(setting.remedy, "%s is up to the server for %s: if that can, %s", setting.name, strings.Join(maybe, ", "), setting.effect))
		}
	}
	if len(all) == 0 {
		all = append(all, fine("it runs with neither DNSSEC nor DNS over TLS"))
	}
	return all
}

// settings reads what resolvectl says of a setting, "Global: no" or "Link 2 (eth0):
// opportunistic", and returns where it is on, and where the server decides.
func settings(out string) (sure, maybe []string) {
	for line := range strings.Lines(out) {
		where, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, link, ok := strings.Cut(where, "("); ok {
			where = strings.TrimSuffix(link, ")")
		}
		switch strings.TrimSpace(value) {
		case "yes":
			sure = append(sure, where)
		case "allow-downgrade", "opportunistic":
			maybe = append(maybe, where)
		}
	}
	return sure, maybe
}
