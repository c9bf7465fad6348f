package agent

import (
	"log/slog"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/uplink"
)

// An agent that follows uplinks no more must end, and not look well.
func TestUplinksThatCannotBeFollowedEndTheTask(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	watcher, err := uplink.Open(uplink.Options{Devices: []string{"none"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Close(); err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: log, datapath: &loader.Datapath{}, epochs: newEpochs(log)}
	p := &packets{agent: a, watcher: watcher, retry: time.NewTimer(time.Hour), flipped: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- p.run(t.Context()) }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the task ends without an error")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the task goes on")
	}
}
