package main

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
)

// place says where the configuration is, and through it everything else.
type place struct {
	path   string // of --config; empty is byDefault
	socket string // of --socket; empty is what the configuration says

	byDefault string
}

// configFlag adds --config to a command.
func configFlag(e *env, cmd *cobra.Command) *place {
	p := &place{byDefault: e.config}
	cmd.Flags().StringVar(&p.path, "config", "", "configuration `file` (default "+e.config+")")
	return p
}

// agentFlags adds --config and --socket to a command that asks the agent.
func agentFlags(e *env, cmd *cobra.Command) *place {
	p := configFlag(e, cmd)
	cmd.Flags().StringVar(&p.socket, "socket", "", "the agent's control `socket` (default: as configured)")
	return p
}

// load reads the configuration, also once more. Only the file in the default place
// may be missing: the defaults then hold.
func (p *place) load() (*config.Config, error) {
	if p.path != "" {
		return config.Load(p.path)
	}
	c, err := config.Load(p.byDefault)
	if errors.Is(err, fs.ErrNotExist) {
		byDefault := config.Default()
		return &byDefault, nil
	}
	return c, err
}

// client returns a client of the agent. With --socket it works even when the
// configuration is broken.
func (p *place) client() (*control.Client, error) {
	if p.socket != "" {
		return control.NewClient(p.socket), nil
	}
	c, err := p.load()
	if err != nil {
		return nil, err
	}
	return control.NewClient(c.Control.Socket), nil
}

// pinsFlag adds --pins to a command that reads or removes pins.
func pinsFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("pins", "", "the `folder` of the pins (default: as configured)")
}

// pins returns the folder of the pins. With --pins it works even when the
// configuration is broken.
func (p *place) pins(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	c, err := p.load()
	if err != nil {
		return "", err
	}
	return c.Kernel.Pins, nil
}
