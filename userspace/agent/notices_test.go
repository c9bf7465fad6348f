package agent

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// Stages in few letters.
const (
	starting  = supervisor.StageStarting
	ready     = supervisor.StageReady
	reloading = supervisor.StageReloading
	stopping  = supervisor.StageStopping
)

func TestNoticesFollowTheAgent(t *testing.T) {
	bad := errors.New("first problem\nsecond problem")
	for _, test := range []struct {
		name string
		life func(*notices)
		want []supervisor.Notice
	}{
		{"a start, a change and a stop", func(n *notices) {
			n.starting("loading programs")
			n.starting("applying profile p")
			n.ready("up")
			n.acquiring("down")
			n.stopping("detaching")
		}, []supervisor.Notice{
			{Stage: starting, Status: "loading programs"}, {Status: "applying profile p"},
			{Stage: ready, Status: "up"}, {Status: "down"}, {Stage: stopping, Status: "detaching"},
		}},
		{"nothing new", func(n *notices) {
			n.ready("up")
			n.acquiring("up")
		}, []supervisor.Notice{{Stage: ready, Status: "up"}}},
		{"channels before the agent is ready", func(n *notices) {
			n.starting("loading programs")
			n.acquiring("up")
		}, []supervisor.Notice{{Stage: starting, Status: "loading programs"}}},
		{"a reload", func(n *notices) {
			n.ready("one")
			n.reloading()
			n.acquiring("half")
			n.reloaded("two", nil)
		}, []supervisor.Notice{
			{Stage: ready, Status: "one"}, {Stage: reloading, Status: "reloading"}, {Stage: ready, Status: "two"},
		}},
		{"a rejected reload, until one succeeds", func(n *notices) {
			n.ready("one")
			n.reloading()
			n.reloaded("one", bad)
			n.acquiring("two")
			n.reloading()
			n.reloaded("two", nil)
		}, []supervisor.Notice{
			{Stage: ready, Status: "one"}, {Stage: reloading, Status: "reloading"},
			{Stage: ready, Status: "one; reload rejected: first problem"}, {Status: "two; reload rejected: first problem"},
			{Stage: reloading, Status: "reloading"}, {Stage: ready, Status: "two"},
		}},
		{"a reload before the agent is ready", func(n *notices) {
			n.starting("applying profile p")
			n.reloading()
			n.reloaded("one", nil)
			n.ready("one")
		}, []supervisor.Notice{{Stage: starting, Status: "applying profile p"}, {Stage: ready, Status: "one"}}},
		{"a start on the last good profile", func(n *notices) {
			n.complain("last good profile is used", bad)
			n.ready("one")
		}, []supervisor.Notice{{Stage: ready, Status: "one; last good profile is used: first problem"}}},
		{"a reload that a stop overtakes", func(n *notices) {
			n.ready("one")
			n.reloading()
			n.stopping("detaching")
			n.reloaded("two", nil)
			n.acquiring("three")
			n.draining(2, time.Second)
			n.draining(2, time.Second)
			n.draining(1, time.Second)
		}, []supervisor.Notice{
			{Stage: ready, Status: "one"}, {Stage: reloading, Status: "reloading"}, {Stage: stopping, Status: "detaching"},
			{Status: "draining 2 flows", Alive: true, Extend: time.Second}, {Alive: true, Extend: time.Second},
			{Status: "draining 1 flow", Alive: true, Extend: time.Second},
		}},
		{"an agent that is well", func(n *notices) {
			n.ready("one")
			n.alive()
			n.alive()
		}, []supervisor.Notice{{Stage: ready, Status: "one"}, {Alive: true}, {Alive: true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []supervisor.Notice
			test.life(&notices{notify: func(n supervisor.Notice) { got = append(got, n) }})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoticesComeOneAtATime(t *testing.T) {
	told, busy := 0, false // no locks: the race detector sees what comes at once
	n := &notices{notify: func(supervisor.Notice) {
		if busy {
			t.Error("told twice at once")
		}
		busy = true
		told++
		busy = false
	}}
	var all sync.WaitGroup
	for range 8 {
		all.Go(n.alive)
	}
	all.Wait()
	if told != 8 {
		t.Errorf("told %d times, want 8", told)
	}
}

func TestAgentWithoutASupervisorTellsNobody(t *testing.T) {
	n := new(notices)
	n.ready("one")
	n.alive()
	if n.stage != supervisor.StageReady {
		t.Errorf("stage is %d, want %d", n.stage, supervisor.StageReady)
	}
}
