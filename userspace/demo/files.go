package demo

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bpfacq/bpfacq/userspace/edge"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// The files of the demo's folder.
const (
	configFile      = "bpfacq.toml"
	profileFile     = "profile.json"
	certificateFile = "edge.pem"
	keyFile         = "edge.key"
	socketFile      = "control.sock"
	hostResolver    = "host.resolv.conf"
	edgeResolver    = "edge.resolv.conf"
	switchFile      = "nsswitch.conf"
)

// edgeNames is the pattern of the edges that the sample profile may name.
const edgeNames = "*.client.globalsecureaccess.microsoft.com"

// writeFiles writes what the agent and the edge are started with.
func (s *scene) writeFiles() error {
	text, err := withNameRule()
	if err != nil {
		return err
	}
	p, err := profile.Parse(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("parse profile: %w", err)
	}
	names := edgeHosts(p.Policy)
	err = errors.Join(
		s.write(profileFile, text),
		s.write(configFile, s.configuration(names)),
		s.writeCertificate(names),
		s.write(hostResolver, "nameserver "+publicResolver+"\n"),
		s.write(edgeResolver, "nameserver "+intranetAddr+"\n"),
		s.write(switchFile, "hosts: files dns\n"),
	)
	if err != nil {
		return fmt.Errorf("write files: %w", err)
	}
	return nil
}

// edgeHosts lists the host names of the policy's edges.
func edgeHosts(p *policy.Policy) []string {
	var names []string
	for _, channel := range p.Channels {
		for _, e := range slices.Concat(channel.Primary, channel.Secondary) {
			names = append(names, e.Host)
		}
	}
	return names
}

// configuration maps every edge of the profile to the demo's.
func (s *scene) configuration(edges []string) string {
	var text strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	add("profile = %q", s.path(profileFile))
	add("state-dir = %q", s.path("state"))
	add("\n[kernel]")
	add("cgroup = %q", s.cgroup)
	add("pins = %q", s.pinFolder())
	add("\n[edges]")
	add("allow = [%q]", edgeNames)
	add("ca-file = %q", s.path(certificateFile))
	add("\n[edges.addresses]")
	for _, name := range edges {
		add("%q = %q", name, edgeTunnels)
	}
	add("\n[control]")
	add("socket = %q", s.path(socketFile))
	return text.String()
}

// writeCertificate makes a certificate for the edges' names and writes it with
// its key. It is its own root.
func (s *scene) writeCertificate(names []string) error {
	pair, err := edge.SelfSigned(names, time.Hour)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(
		s.write(certificateFile, inPEM("CERTIFICATE", pair.Leaf.Raw)),
		s.write(keyFile, inPEM("PRIVATE KEY", key)),
	)
}

func inPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (s *scene) path(name string) string { return filepath.Join(s.folder, name) }

func (s *scene) write(name, text string) error {
	return os.WriteFile(s.path(name), []byte(text), 0o600)
}
