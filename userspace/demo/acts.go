package demo

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// url is a page of the intranet.
func url(port string) string {
	if port == portWeb {
		return "http://" + intranetAddr + "/"
	}
	return "http://" + net.JoinHostPort(intranetAddr, port) + "/"
}

// showHost shows that the host does not reach the intranet.
func (s *scene) showHost(ctx context.Context) error {
	s.screen.line(bold, "Three network namespaces and a cgroup of the demo's own:")
	s.screen.text("\n  " + picture)
	for _, st := range []step{
		{
			shows: "The host knows its own network, and no way to " + intranetPrefix + ".",
			at:    s.host, line: []string{"ip", "route"},
			want: []string{"10.99.0.0/24"}, wantNot: []string{"default", "192.168."},
		},
		{
			shows: "So the web server cannot be reached.",
			at:    s.host, line: []string{"curl", "-sS", url(portWeb)},
			status: 7, wantNot: []string{"Hello"},
		},
		{
			shows: "Nor does its resolver, " + publicResolver + ", know the web server's name.",
			at:    s.host, line: []string{"curl", "-sS", "http://" + intranetName + "/"},
			status: 6, want: []string{"resolve"},
		},
	} {
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// startEdge starts the edge. It may reach the whole intranet.
func (s *scene) startEdge(ctx context.Context) (err error) {
	line := []string{
		"bpfacq", "edge", "--listen", edgeTunnels, "--certificate", certificateFile, "--key", keyFile,
		"--allow", intranetPrefix + ":*",
	}
	s.screen.comment("An edge is started. It may connect to every port of the intranet.")
	s.screen.command(s.gate, shellLine(line)+" &")
	if s.edge, err = s.startProgram(s.gate, "edge", line); err != nil {
		return err
	}
	return s.edge.until(ctx, func() bool {
		conn, err := s.host.ns.DialContext(ctx, "tcp", edgeTunnels)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// startAgent remembers the state of the host and starts the agent on it.
func (s *scene) startAgent(ctx context.Context) error {
	err := s.take(ctx, step{
		shows: "The profile is the sample, with one rule more, for names; the configuration says where its edge is.",
		at:    s.host, line: []string{"cat", configFile},
		want: []string{edgeTunnels},
	})
	if err != nil {
		return err
	}
	if s.before, err = s.snapshot(); err != nil {
		return err
	}

	line := []string{"bpfacq", "run", "--config", configFile}
	s.screen.comment("The agent is started. It loads the profile into the kernel.")
	s.screen.command(s.host, shellLine(line)+" &")
	begun := time.Now()
	if s.agent, err = s.startProgram(s.host, "agent", line); err != nil {
		return err
	}
	client := control.NewClient(s.path(socketFile))
	var status control.Status
	err = s.agent.until(ctx, func() bool {
		status, err = client.Status(ctx)
		return err == nil && acquiring(status)
	})
	if err != nil {
		return err
	}
	s.screen.line(faint, fmt.Sprintf("# After %d ms it acquires by %d rules, and channel %s is %s.",
		time.Since(begun).Milliseconds(), status.Profile.Rules, status.Channels[0].Name, status.Channels[0].State))
	return s.screen.err
}

// acquiring reports whether the kernel hands flows to the agent and the agent
// can carry them on.
func acquiring(s control.Status) bool {
	for _, channel := range s.Channels {
		if channel.State != "up" {
			return false
		}
	}
	return s.Lease.Fresh && s.Profile != nil && len(s.Channels) > 0
}

// showFlows shows what is carried and what is not.
func (s *scene) showFlows(ctx context.Context) error {
	for _, st := range []step{
		{
			shows: "The web server answers. Its client is the edge, " + edgeInside + ".",
			at:    s.host, line: []string{"curl", "-sS", url(portWeb)},
			want: []string{"Hello " + edgeInside + ", this is " + intranetAddr + ":80."},
		},
		{
			shows: "So does SSH, which the same rule covers.",
			at:    s.host, line: []string{"bash", "-c", "head -1 </dev/tcp/" + intranetAddr + "/" + portSSH},
			want: []string{banner},
		},
		{
			shows: "Port 81 is open, and the edge reaches it.",
			at:    s.gate, line: []string{"curl", "-sS", url(portOther)},
			want: []string{"Hello " + edgeInside + ", this is " + intranetAddr + ":81."},
		},
		{
			shows: "But no rule covers it: the host tries the direct way, and fails as before.",
			at:    s.host, line: []string{"curl", "-sS", url(portOther)},
			status: 7, wantNot: []string{"Hello"},
		},
	} {
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	if n := s.intranet.others.Load(); n != 1 {
		return fmt.Errorf("count connections to port %s: got %d, want the edge's own alone", portOther, n)
	}
	return nil
}

// ask is the command line of a question to the agent.
func ask(words ...string) []string {
	return append(append([]string{"bpfacq"}, words...), "--config", configFile)
}

// showDecisions shows how to find out why.
func (s *scene) showDecisions(ctx context.Context) error {
	const web, other = intranetAddr + ":" + portWeb, intranetAddr + ":" + portOther
	for _, st := range []step{
		{
			shows: "Why port 80 is acquired: the rule that wins.",
			at:    s.host, line: ask("explain", "tcp", web),
			want: []string{"acquire", "xxxxxxxx-xxxx-xxxx-xxxx-a7240ed867b4"},
		},
		{
			shows: "Why port 81 is not.",
			at:    s.host, line: ask("explain", "tcp", other),
			want: []string{"pass", "no-match"},
		},
		{
			shows: "The flows that were carried.",
			at:    s.host, line: ask("flows"), wide: true,
			want:    []string{web, intranetAddr + ":" + portSSH, "(" + intranetName + ")"},
			wantNot: []string{other, "refused", "failed", "reset"},
		},
		{
			shows: "The kernel's prefixes: the rule's, and those that are never acquired.",
			at:    s.host, line: ask("maps", "dump", "prefix4"),
			want: []string{intranetPrefix, "127.0.0.0/8"},
		},
	} {
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	return nil
}
