package rules

import (
	"path"
	"slices"
	"strings"
)

const module = "github.com/bpfacq/bpfacq/"

// layer says what the packages of a folder may import of this module.
type layer struct {
	folder string
	may    []string // folders
	why    string
}

// layers go from the particular to the general: the first whose folder holds a
// file is the file's.
func layers() []layer {
	const (
		policy = "userspace/policy"
		flow   = "userspace/flow"
		model  = "a model imports nothing, so that every package can speak it"
		peers  = "userspace packages meet their peers as interfaces, and only the agent joins them with the datapath"
		root   = "the bindings are for loader and maps"
	)
	return []layer{
		{"bpf", nil, "the bindings stand at the bottom and know nobody"},
		{"maps", []string{"bpf", policy, flow}, "maps only translates between the kernel's bytes and the models"},
		{"loader", []string{"bpf", "maps", policy, flow}, "the loader changes kernel state and knows nothing of the agent"},
		{policy, nil, model},
		{flow, nil, model},
		{"userspace/profile", []string{policy}, "a profile is read into a policy and nothing else"},
		{"userspace/channel", []string{policy, "userspace/tunnel"}, "a channel is a set of tunnels"},
		{"userspace/tlsrecord", nil, "it is a leaf that both ends of a tunnel share"},
		{"userspace/capsule", nil, "it is a leaf that both ends of a tunnel share"},
		{"userspace/mmsg", nil, "it is a leaf that both ends of a flow of UDP share"},
		{"userspace/tunnel", []string{"userspace/capsule", "userspace/tlsrecord"}, peers},
		{"userspace/edge", []string{policy, "userspace/capsule", "userspace/mmsg", "userspace/tlsrecord"}, peers},
		{"userspace/relay", []string{flow}, peers},
		{"userspace/listen", []string{flow}, peers},
		{"userspace/datagram", []string{policy, flow, "userspace/mmsg"}, peers},
		{"userspace/rtnetlink", nil, "it is a leaf that all share who ask the kernel about devices"},
		{"userspace/device", []string{policy, flow, "userspace/rtnetlink"}, peers},
		{"userspace/enclave", []string{"userspace/netns", "userspace/rtnetlink"}, "an enclave is a namespace with a way in"},
		{"userspace/uplink", []string{"userspace/enclave", "userspace/rtnetlink"}, "an end of an enclave's pair is no uplink"},
		{"userspace/metrics", []string{"userspace/control"}, "metrics show the figures that control answers with"},
		{"userspace/doctor", []string{policy, "userspace/channel", "userspace/config", "userspace/control", "userspace/profile"},
			"the doctor reads files as the agent does, and meets the kernel as an interface"},
		{"userspace/agent", []string{"userspace", "loader", "maps"}, root},
		{"userspace/demo", []string{"userspace", "loader", "maps"}, root},
		{"userspace", []string{policy, flow}, peers},
		{"cmd", []string{"userspace", "loader", "maps"}, root},
		{"test", []string{"bpf", "cmd", "loader", "maps", "test", "userspace"}, ""},
	}
}

func checkDirection(s source) (found []finding) {
	if s.isTest() {
		return nil
	}
	i := slices.IndexFunc(layers(), func(l layer) bool { return s.under(l.folder) })
	for spec, imported := range s.imports() {
		folder, own := strings.CutPrefix(imported, module)
		if !own {
			continue
		}
		if i < 0 {
			found = append(found, s.findf(spec, "imports %s: no layer is stated for %s", folder, s.folder()))
			continue
		}
		l := layers()[i]
		if within(folder, "userspace/agent") && s.under("userspace") {
			found = append(found, s.findf(spec, "imports %s: the agent is the composition root, and only cmd starts it", folder))
			continue
		}
		if !slices.ContainsFunc(l.may, func(may string) bool { return within(folder, may) }) {
			found = append(found, s.findf(spec, "imports %s: %s", folder, l.why))
		}
	}
	return found
}

// knowsBPF reports whether the file is where the kernel's objects are known.
func knowsBPF(s source) bool {
	return s.under("bpf") || s.under("maps") || s.under("loader")
}

func checkBPFLibrary(s source) (found []finding) {
	for spec, imported := range s.imports() {
		if within(imported, "github.com/cilium/ebpf") && !knowsBPF(s) {
			found = append(found, s.findf(spec, "imports %s: only bpf, maps and loader know the kernel's objects", path.Base(imported)))
		}
	}
	return found
}
