package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/bpfacq/bpfacq/maps"
)

// refusalInterval is how often the log tells of flows that the programs refused
// because of a name.
const refusalInterval = 5 * time.Second

// refusals are what the programs refuse because of a name, and why.
func refusals() map[maps.Counter]string {
	return map[maps.Counter]string{
		maps.BlockOriginal: "no rule of the name covers the port, and it has no original address",
		maps.BlockUnknown:  "the synthetic address stands for no name",
	}
}

// watchRefusals writes to the log that flows to synthetic addresses were refused.
// The programs only count them.
func (a *Agent) watchRefusals(ctx context.Context) error {
	look := time.NewTicker(refusalInterval)
	defer look.Stop()
	before, err := a.datapath.Maps.Counters()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		now, err := a.datapath.Maps.Counters()
		if err != nil {
			return err
		}
		for counter, why := range refusals() {
			if n := now[counter] - before[counter]; n > 0 {
				a.log.Warn("flows to synthetic addresses refused", slog.String("cause", why), slog.Uint64("flows", n))
			}
		}
		before = now
	}
}
