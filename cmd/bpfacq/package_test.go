package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/config"
)

// unit is a unit file: the values of each key, in order.
type unit map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("package", name))
	if err != nil {
		t.Fatal(err)
	}
	u := make(unit)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// seconds reads the last value of a key that is a time.
func (u unit) seconds(t *testing.T, key string) time.Duration {
	t.Helper()
	values := u[key]
	if len(values) == 0 {
		t.Fatalf("%s is missing", key)
	}
	d, err := time.ParseDuration(values[len(values)-1])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What the unit allows is what the agent's defaults need.
func TestUnitAgreesWithTheDefaults(t *testing.T) {
	u, c := readUnit(t, "bpfacq.service"), config.Default()
	for key, want := range map[string][]string{
		"StateDirectory":      {strings.TrimPrefix(c.StateDir, "/var/lib/")},
		"RuntimeDirectory":    {strings.TrimPrefix(filepath.Dir(c.Control.Socket), "/run/")},
		"ReadWritePaths":      {"-" + filepath.Dir(c.Kernel.Pins), "/proc/sys/net"},
		"ConditionPathExists": {"|" + c.Profile, "|" + filepath.Join(c.StateDir, "profile.json")},
	} {
		if !slices.Equal(u[key], want) {
			t.Errorf("%s is %q, want %q", key, u[key], want)
		}
	}
	if restart, lease := u.seconds(t, "RestartSec"), time.Duration(c.Kernel.Lease); restart >= lease {
		t.Errorf("an agent is started again after %v, when its lease of %v is over", restart, lease)
	}
	if stop, drain := u.seconds(t, "TimeoutStopSec"), time.Duration(c.Relay.Drain); stop < 2*drain {
		t.Errorf("an agent is killed after %v, while it may drain for %v", stop, drain)
	}
}

var (
	calls = regexp.MustCompile(`(?m)^(?:Exec[A-Za-z]+=/usr/bin/)?bpfacq ([a-z]+)(.*)$`)
	flags = regexp.MustCompile(`--([a-z-]+)`)
	pages = regexp.MustCompile(`man:([a-z.-]+)\(([1-9])\)`)
)

// What units and scripts run, and the pages that they refer to, exist.
func TestPackageKnowsTheCommands(t *testing.T) {
	root := newRoot(&env{stdout: io.Discard, stderr: io.Discard})
	var got []string
	for _, name := range []string{"bpfacq.service", "bpfacq-edge.service", "preremove.sh"} {
		text, err := os.ReadFile(filepath.Join("package", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls.FindAllStringSubmatch(string(text), -1) {
			cmd, _, err := root.Find(call[1:2])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, cmd.Name())
			for _, flag := range flags.FindAllStringSubmatch(call[2], -1) {
				if cmd.Flags().Lookup(flag[1]) == nil {
					t.Errorf("%s: %q has no --%s", name, cmd.CommandPath(), flag[1])
				}
			}
		}
		for _, page := range pages.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join("man", page[1]+"."+page[2])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if want := []string{"run", "reload", "edge", "detach"}; !slices.Equal(got, want) {
		t.Errorf("units and scripts run %q, want %q", got, want)
	}
}
