package maps

import (
	"fmt"
	"iter"

	"github.com/bpfacq/bpfacq/bpf"
)

// Counter names one way out of a program.
type Counter uint32

// Counters is how many there are.
const Counters = Counter(bpf.SocketCounterCOUNTERS)

// What the programs refuse because of a name: the agent writes it to its log.
const (
	BlockUnknown  = Counter(bpf.SocketCounterCOUNTER_BLOCK_UNKNOWN)  // a synthetic address of no name
	BlockOriginal = Counter(bpf.SocketCounterCOUNTER_BLOCK_ORIGINAL) // a name without original address
)

// String returns the counter's name in metrics and tables.
func (c Counter) String() string {
	switch bpf.SocketCounter(c) {
	case bpf.SocketCounterCOUNTER_PASS_EXEMPT:
		return "pass_exempt"
	case bpf.SocketCounterCOUNTER_PASS_FOREIGN:
		return "pass_foreign_netns"
	case bpf.SocketCounterCOUNTER_PASS_BOUND:
		return "pass_bound"
	case bpf.SocketCounterCOUNTER_PASS_INACTIVE:
		return "pass_inactive"
	case bpf.SocketCounterCOUNTER_PASS_PROTECTED:
		return "pass_never_acquired"
	case bpf.SocketCounterCOUNTER_PASS_UNMATCHED:
		return "pass_no_match"
	case bpf.SocketCounterCOUNTER_PASS_BYPASS:
		return "pass_bypass"
	case bpf.SocketCounterCOUNTER_PASS_HARDENED:
		return "pass_hardened"
	case bpf.SocketCounterCOUNTER_ACQUIRE:
		return "acquire"
	case bpf.SocketCounterCOUNTER_BLOCK:
		return "block"
	case bpf.SocketCounterCOUNTER_PASS_ORIGINAL:
		return "pass_original"
	case bpf.SocketCounterCOUNTER_BLOCK_UNKNOWN:
		return "block_unknown_name"
	case bpf.SocketCounterCOUNTER_BLOCK_ORIGINAL:
		return "block_no_original"
	case bpf.SocketCounterCOUNTER_BLOCK_CROWDED:
		return "block_crowded"
	case bpf.SocketCounterCOUNTER_ACQUIRE_QUERY:
		return "acquire_query"
	case bpf.SocketCounterCOUNTER_PASS_UNSERVED:
		return "pass_query_unserved"
	case bpf.SocketCounterCOUNTER_PASS_SERVER:
		return "pass_query_server"
	case bpf.SocketCounterCOUNTER_PASS_SCOPE:
		return "pass_query_scope"
	case bpf.SocketCounterCOUNTER_PASS_DEVICE:
		return "pass_query_device"
	case bpf.SocketCounterCOUNTER_PASS_CROWDED:
		return "pass_query_crowded"
	case bpf.SocketCounterCOUNTER_PASS_PACKETS:
		return "pass_packets"
	case bpf.SocketCounterCOUNTER_HANDOFF_OFFERED:
		return "handoff_offered"
	case bpf.SocketCounterCOUNTER_HANDOFF_TAKEN:
		return "handoff_taken"
	case bpf.SocketCounterCOUNTER_HANDOFF_WITHDRAWN:
		return "handoff_withdrawn"
	case bpf.SocketCounterCOUNTER_HANDOFF_MISSED:
		return "handoff_missed"
	case bpf.SocketCounterCOUNTER_QUERY_KNOWN:
		return "query_known"
	case bpf.SocketCounterCOUNTER_QUERY_ASKERLESS:
		return "query_askerless"
	case bpf.SocketCounterCOUNTER_QUERY_MISSED:
		return "query_missed"
	case bpf.SocketCounterCOUNTER_BUG_POLICY_TORN:
		return "bug_policy_torn"
	case bpf.SocketCounterCOUNTER_BUG_CLIENT_STORAGE:
		return "bug_client_storage"
	case bpf.SocketCounterCOUNTER_BUG_ACCEPT_STORAGE:
		return "bug_accept_storage"
	case bpf.SocketCounterCOUNTER_BUG_PEER_STORAGE:
		return "bug_peer_storage"
	case bpf.SocketCounterCOUNTER_BUG_QUERY_STORAGE:
		return "bug_query_storage"
	case bpf.SocketCounterCOUNTER_BUG_HANDOFF_FULL:
		return "bug_handoff_full"
	case bpf.SocketCounterCOUNTER_BUG_FLAGS:
		return "bug_flags"
	case bpf.SocketCounterCOUNTER_PACKET_INACTIVE:
		return "packet_inactive"
	case bpf.SocketCounterCOUNTER_PACKET_OTHER:
		return "packet_other"
	case bpf.SocketCounterCOUNTER_PACKET_EXEMPT:
		return "packet_exempt"
	case bpf.SocketCounterCOUNTER_PACKET_FOREIGN:
		return "packet_foreign_netns"
	case bpf.SocketCounterCOUNTER_PACKET_FORWARDED:
		return "packet_forwarded"
	case bpf.SocketCounterCOUNTER_PACKET_MOVED:
		return "packet_moved"
	case bpf.SocketCounterCOUNTER_PACKET_UNTAGGED:
		return "packet_untagged"
	case bpf.SocketCounterCOUNTER_PACKET_UNMATCHED:
		return "packet_pass"
	case bpf.SocketCounterCOUNTER_PACKET_HARDENED:
		return "packet_hardened"
	case bpf.SocketCounterCOUNTER_PACKET_ANSWER:
		return "packet_answer"
	case bpf.SocketCounterCOUNTER_PACKET_ACQUIRE:
		return "packet_acquire"
	case bpf.SocketCounterCOUNTER_PACKET_REFUSE:
		return "packet_refuse"
	case bpf.SocketCounterCOUNTER_PACKET_STRAY:
		return "packet_stray"
	case bpf.SocketCounterCOUNTER_PACKET_ERROR:
		return "packet_error"
	case bpf.SocketCounterCOUNTER_PACKET_BLOCK:
		return "packet_block"
	case bpf.SocketCounterCOUNTER_PACKET_UNPLACED:
		return "packet_unplaced_fragment"
	case bpf.SocketCounterCOUNTER_PACKET_OPENED:
		return "packet_opened"
	case bpf.SocketCounterCOUNTER_LOOKUP_ACQUIRE:
		return "lookup_acquire"
	case bpf.SocketCounterCOUNTER_LOOKUP_REFUSE:
		return "lookup_refuse"
	case bpf.SocketCounterCOUNTER_REPLY:
		return "reply"
	case bpf.SocketCounterCOUNTER_REPLY_DROP:
		return "reply_drop"
	case bpf.SocketCounterCOUNTER_BUG_TAG_STORAGE:
		return "bug_tag_storage"
	case bpf.SocketCounterCOUNTER_BUG_PACKET:
		return "bug_packet"
	case bpf.SocketCounterCOUNTER_BUG_RELAY_SOCKET:
		return "bug_relay_socket"
	}
	return fmt.Sprintf("counter(%d)", uint32(c))
}

// AllCounters yields every counter in the order of the datapath.
func AllCounters() iter.Seq[Counter] {
	return func(yield func(Counter) bool) {
		for c := range Counters {
			if !yield(c) {
				return
			}
		}
	}
}

// Counters reads every counter, summed over the processors.
func (m *Maps) Counters() (map[Counter]uint64, error) {
	sums := make(map[Counter]uint64, Counters)
	var perCPU []uint64
	for c := range AllCounters() {
		if err := m.objects.BpfacqCounter.Lookup(uint32(c), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", c, err)
		}
		sums[c] = 0
		for _, n := range perCPU {
			sums[c] += n
		}
	}
	return sums, nil
}
