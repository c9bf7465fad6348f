package loader

import (
	"errors"

	"github.com/cilium/ebpf/rlimit"
)

// Answer is what a kernel says when it is asked for a feature.
type Answer string

// The answers. A kernel that refuses the question itself, as it does to
// processes without privilege, has said neither yes nor no.
const (
	AnswerYes     Answer = "yes"
	AnswerNo      Answer = "no"
	AnswerUnknown Answer = "unknown"
)

// Feature is one rung of the ladder: something that newer kernels have, and what
// bpfacq does with it and without it.
type Feature struct {
	ID        string
	Have      Answer
	Gives     string
	Otherwise string
	Err       error // why Have is unknown
}

// errAbsent says that the kernel lacks what it was asked for.
var errAbsent = errors.New("kernel lacks this")

// rung is a feature before the kernel was asked.
type rung struct {
	id, gives, otherwise string
	ask                  func() error // nil is yes, errAbsent no
}

// ladder lists what ARCHITECTURE.md's table shows for each tested kernel; a test
// keeps the two equal.
func ladder() []rung {
	return []rung{
		{"chosen-errno", "a refused connect() says ECONNREFUSED", "a refused connect() says EPERM", askSetRetval},
		{"sockops-netns", "the listener's hook compares network namespaces", "the listener's hook trusts the four numbers of a handshake", askSockopsNetns},
		{"socket-netns", "the agent asks a socket for its network namespace", "the agent learns its network namespace from its connect hook", askSocketNetns},
		{"tc-netns", "the packet path asks each packet for its network namespace", "the packet path reads what the socket hooks left in the socket", askTCNetns},
		{"trie-batch", "prefixes are loaded by thousands", "prefixes are loaded one by one", askTrieBatch},
		{"memcg", "maps count against the agent's memory limit", "maps count against RLIMIT_MEMLOCK, which the agent lifts", askMemcg},
		{"sk-lookup", "the packet path's listeners take any destination", "there is no packet path", askSkLookup},
		{"tcx", "the packet path is attached by links, which are pinned", "the packet path is attached by clsact filters, swept at start", askTCX},
		{"atomic-fetch", "a bound on flows is kept by one instruction", "a bound on flows is kept under a spin lock", askAtomicFetch},
	}
}

// Ladder asks the running kernel for every feature that bpfacq uses or plans
// with, in the order of ARCHITECTURE.md. It loads small programs and maps and
// closes them again; nothing is attached. The limit of locked memory, which
// would answer for some kernels before 5.11, is lifted where it may be.
func Ladder() []Feature {
	// A limit that stays shows as an error of each question.
	_ = rlimit.RemoveMemlock()

	var all []Feature
	for _, r := range ladder() {
		f := Feature{ID: r.id, Gives: r.gives, Otherwise: r.otherwise}
		f.Have, f.Err = answer(r.ask)
		all = append(all, f)
	}
	return all
}

func answer(ask func() error) (Answer, error) {
	err := ask()
	switch {
	case err == nil:
		return AnswerYes, nil
	case errors.Is(err, errAbsent):
		return AnswerNo, nil
	}
	return AnswerUnknown, err
}
