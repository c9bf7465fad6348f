package main

import (
	"context"
	"io"
	"os"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/demo"
	"github.com/bpfacq/bpfacq/userspace/doctor"
)

// env is all that the commands use of the world around them.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	config         string // where the configuration is when no flag says otherwise
	hosts          string // the host's own file of names, hosts(5)
	namespaces     string // the folder of named network namespaces, ip-netns(8)
	journaled      bool   // whether standard error leads to the systemd journal

	agent  func(context.Context, agent.Options) error // what run runs
	demo   func(context.Context, demo.Options) error  // what demo runs
	pinned func(pins string) (pinned, error)          // what maps dump reads
	detach func(pins string) (bool, error)            // what detach does; false: there was nothing

	// what doctor does, with the path of the configuration and whether it was named
	examine func(ctx context.Context, config string, named bool) *doctor.Report
}

// pinned are the maps below a pin folder.
type pinned interface {
	Dump(name string) (maps.Dump, error)
	Close() error
}

// host is the world of the real command.
func host() *env {
	return &env{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		config: config.Path,
		hosts:  "/etc/hosts",

		namespaces: "/run/netns",

		journaled: journaled(),
		agent:     agent.Run,
		demo:      demo.Run,
		pinned:    func(pins string) (pinned, error) { return maps.Open(loader.MapsDir(pins)) },
		detach:    detach,

		examine: examine,
	}
}
