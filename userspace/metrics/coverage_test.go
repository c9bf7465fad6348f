package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bpfacq/bpfacq/maps"
)

// Each counter of the datapath is one metric, and no other has its labels.
func TestEveryCounterOfTheDatapathIsShown(t *testing.T) {
	counters := make(map[string]uint64)
	for c := range maps.AllCounters() {
		counters[c.String()] = 1000 + uint64(c)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(source{counters: counters}, "v1"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[uint64]string) // by value
	for _, f := range families {
		switch f.GetName() {
		case "bpfacq_connects_total", "bpfacq_handoffs_total", "bpfacq_query_datagrams_total", "bpfacq_datapath_bugs_total",
			"bpfacq_packets_total", "bpfacq_enclave_lookups_total", "bpfacq_enclave_replies_total":
			for _, m := range f.GetMetric() {
				shown[uint64(m.GetCounter().GetValue())] = f.GetName()
			}
		}
	}
	for name, value := range counters {
		if shown[value] == "" {
			t.Errorf("counter %s is in no metric", name)
		}
	}
	if len(shown) != len(counters) {
		t.Errorf("%d metrics for %d counters", len(shown), len(counters))
	}
}
