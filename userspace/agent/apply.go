package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// lastGood is the file of the state folder that holds the profile in force.
const lastGood = "profile.json"

// maxProfile is more than any profile that the parser takes, in bytes.
const maxProfile = profile.MaxSize + 1

// loaded is the policy in force, and what it came from.
type loaded struct {
	control.Loaded
	epoch   *epoch
	profile *profile.Profile // its Policy is without the edges' protections
	edges   []policy.Protection
}

// Apply implements control.Agent.
func (a *Agent) Apply(_ context.Context, r io.Reader, source string) (control.Applied, error) {
	a.apply.Lock()
	defer a.apply.Unlock()
	if r == nil {
		source = a.config.Load().Profile
		f, err := os.Open(source)
		if err != nil {
			return control.Applied{}, fmt.Errorf("read profile: %w", err)
		}
		defer f.Close()
		r = f
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxProfile))
	if err != nil {
		return control.Applied{}, fmt.Errorf("read profile: %w", err)
	}
	applied, err := a.applyRaw(raw, source, a.config.Load())
	if err == nil {
		a.notices.complied()
	}
	return applied, err
}

// applyFirst applies the configured profile at the start. A profile that is
// rejected leaves the last good one in force, also over a reboot.
func (a *Agent) applyFirst(ctx context.Context) error {
	_, err := a.Apply(ctx, nil, "")
	if err == nil {
		return nil
	}
	a.apply.Lock()
	defer a.apply.Unlock()
	path := a.lastGoodPath()
	raw, readErr := os.ReadFile(path)
	if errors.Is(readErr, fs.ErrNotExist) {
		return err
	}
	if readErr != nil {
		return errors.Join(err, fmt.Errorf("read last good profile: %w", readErr))
	}
	if _, lastErr := a.applyRaw(raw, path, a.config.Load()); lastErr != nil {
		return errors.Join(err, fmt.Errorf("apply last good profile: %w", lastErr))
	}
	a.notices.complain("profile is rejected, last good one is used", err)
	a.log.Error("profile is rejected, last good one is used",
		slog.String("profile", a.config.Load().Profile), slog.String("last_good", path), slog.Any("error", err))
	return nil
}

func (a *Agent) lastGoodPath() string {
	return filepath.Join(a.config.Load().StateDir, lastGood)
}

// applyRaw puts a profile in force, whole or not at all, with the edge settings
// of cfg. The caller holds a.apply.
func (a *Agent) applyRaw(raw []byte, source string, cfg *config.Config) (control.Applied, error) {
	parsed, err := profile.Parse(bytes.NewReader(raw))
	if err != nil {
		return control.Applied{}, rejected(err)
	}
	if err := checkEdges(parsed.Policy, cfg); err != nil {
		return control.Applied{}, err
	}
	if err := checkPools(parsed.Policy, cfg); err != nil {
		return control.Applied{}, err
	}
	l := &loaded{profile: parsed, edges: a.edgeProtections(parsed.Policy, &cfg.Edges)}
	l.Source = source
	before := a.pools()
	if err := a.enforce(l, cfg); err != nil {
		return control.Applied{}, err
	}
	a.lookForEdges()
	// An address of a former pool is somebody's on the network.
	if parsed.Policy.Settings.FlushCacheOnChange || len(before) > 0 && !slices.Equal(before, a.pools()) {
		a.flushCaches()
	}
	if err := a.keep(raw); err != nil {
		a.log.Warn("keep last good profile", slog.Any("error", err))
	}
	applied := control.Applied{Schema: control.Schema, Generation: l.Generation, Profile: l.Profile()}
	if lacksPool(l.Policy, cfg) {
		applied.Warnings = append(applied.Warnings, control.Warning{Pointer: subnetPointer, Text: warnNoPool})
	}
	for _, w := range parsed.Warnings {
		applied.Warnings = append(applied.Warnings, control.Warning{Pointer: w.Pointer, Text: w.Text})
	}
	return applied, nil
}

// enforce compiles a policy, prepares what carries its flows, and flips the
// kernel over to it. On an error everything is as it was.
func (a *Agent) enforce(l *loaded, cfg *config.Config) error {
	begun := time.Now()
	p := *l.profile.Policy
	p.Protected = append(policy.NeverAcquired(), l.edges...)
	p.AlsoMatchOriginal = cfg.FQDN.AlsoMatchOriginalIP
	from := poolOf(&p, cfg)
	p.Pools = from.prefixes()
	l.Policy = &p

	compiled, err := policy.Compile(&p, policy.Budget{})
	if err != nil {
		return fmt.Errorf("compile policy: %w", err)
	}
	defer a.epochs.sweep()
	e, err := a.prepare(&p, cfg)
	if err != nil {
		return err
	}
	if e.generation, err = a.datapath.Maps.Next(); err != nil {
		return err
	}
	a.epochs.add(e)
	g, tables := newNaming(&p, compiled, e, cfg), Tables(&p, compiled)
	a.tellOpeners(compiled)
	if err := a.names.flip(g, from, tables, func() (uint32, error) { return a.store(tables) }); err != nil {
		a.epochs.forget(e)
		return fmt.Errorf("load policy: %w", err)
	}
	l.Generation, l.epoch, l.Applied = g.generation, e, time.Now()
	if old := a.loaded.Swap(l); old != nil {
		a.epochs.supersede(old.epoch)
	}
	a.showStates()
	a.packets.policyFlipped()
	a.takeQueries()
	a.log.Info("policy applied",
		slog.Uint64("generation", uint64(l.Generation)),
		slog.String("profile", l.Source),
		slog.String("revision", p.Revision),
		slog.Int("rules", len(p.Rules)),
		slog.Int("prefixes", len(compiled.IPv4)+len(compiled.IPv6)),
		slog.Duration("took", time.Since(begun)))
	return nil
}

// store puts tables in force. Learning is put off from before that on, and anew from
// then on.
func (a *Agent) store(t *maps.Tables) (generation uint32, err error) {
	if err := a.learnLater(); err != nil {
		return 0, err
	}
	if generation, err = a.datapath.Maps.Store(t); err != nil {
		return generation, err
	}
	if err := a.learnLater(); err != nil {
		a.log.Warn("put off learning", slog.Any("error", err))
	}
	return generation, nil
}

// prepare makes the epoch of a policy, with channels that do not dial before a
// flow or a probe wants them.
func (a *Agent) prepare(p *policy.Policy, cfg *config.Config) (*epoch, error) {
	e := &epoch{routes: make([]route, len(p.Rules)), pools: p.Pools}
	carriers := make(map[string]*carrier)
	if cfg.Relay.ExternalListener == "" {
		credentials, err := newCredentials(&cfg.Edges)
		if err != nil {
			return nil, err
		}
		for i := range p.Channels {
			c, err := a.carrier(p, i, cfg, credentials)
			if err != nil {
				return nil, err
			}
			carriers[p.Channels[i].ID] = c
			e.carriers = append(e.carriers, c)
		}
	}
	for i := range p.Rules {
		e.routes[i] = route{p.Rules[i].ID, p.Rules[i].Channel, carriers[p.Rules[i].Channel]}
	}
	return e, nil
}

// keep writes the profile in force to the state folder, so that a reboot finds
// either this one or the one before.
func (a *Agent) keep(raw []byte) error {
	path := a.lastGoodPath()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), lastGood+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(cmp.Or(err, f.Sync()), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// rejected turns the parser's list of problems into the control socket's.
func rejected(err error) error {
	invalid, ok := errors.AsType[*profile.InvalidError](err)
	if !ok {
		return fmt.Errorf("read profile: %w", err)
	}
	r := &control.RejectedError{Omitted: invalid.Omitted}
	for _, p := range invalid.Problems {
		r.Problems = append(r.Problems, control.Problem{Pointer: p.Pointer, Value: p.Value, Want: p.Want})
	}
	return r
}
