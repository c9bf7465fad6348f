package doctor

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// owner is whose programs a name is known for.
func owner(program string) string {
	for prefix, name := range map[string]string{"cil_": "Cilium", "calico_": "Calico", "sd_": "systemd", "mb_": "Merbridge"} {
		if strings.HasPrefix(program, prefix) {
			return name
		}
	}
	return ""
}

// effect is what a program on a hook of another may do to acquisition.
func effect(hook string) string {
	switch hook = strings.ToLower(hook); {
	case strings.Contains(hook, "connect"), strings.Contains(hook, "sendmsg"):
		return "it may rewrite destinations: the program that was attached first decides first, and bpfacq sees what it left"
	case strings.Contains(hook, "getpeername"), strings.Contains(hook, "recvmsg"):
		return "it may change the peer that applications see"
	case strings.Contains(hook, "sockopt"):
		return "it may answer SO_ORIGINAL_DST before bpfacq"
	}
	return "it sees the same connections"
}

func checkCgroupPrograms(x *examination) []Finding {
	target := x.target()
	if target == "" {
		return []Finding{{State: StateUnknown, Cause: "there is no cgroup2 hierarchy to look at", Remedy: "see cgroup2"}}
	}
	programs, err := x.Kernel.ForeignOnCgroups(target)
	var all []Finding
	for group := range grouped(programs, target) {
		f := programs[group[0]]
		title := programTitle(f)
		place := f.Place
		if len(group) > 1 {
			place += fmt.Sprintf(" and %d more", len(group)-1)
		}
		if f.Exclusive && f.Place == target && attaches(f.Attach) {
			all = append(all, failed("have it attached with BPF_F_ALLOW_MULTI or by a link: bpftool cgroup show "+target,
				"%s at %s, %s, wants no other beside it: the agent is refused with EPERM", title, place, f.Attach))
			continue
		}
		all = append(all, noted("if flows go astray: bpftool cgroup tree "+target, "%s at %s, %s: %s", title, place, f.Attach, effect(f.Attach)))
	}
	all = all[:min(len(all), maxListed)]
	if err != nil {
		all = append(all, x.unknown("", err))
	}
	if len(all) == 0 {
		all = append(all, fine("no programs of others on the hooks of bpfacq, from %s down", target))
	}
	return all
}

// attaches reports whether the datapath has a program on a hook of its cgroup.
func attaches(hook string) bool {
	hook = strings.ToLower(hook)
	return slices.ContainsFunc([]string{"connect", "getpeername", "sendmsg", "recvmsg", "sockops"}, func(ours string) bool {
		return strings.Contains(hook, ours)
	})
}

// grouped yields the indexes of programs that differ only in their place below
// the target, those that want to be alone first.
func grouped(programs []Foreign, target string) iter.Seq[[]int] {
	var order []Foreign
	groups := make(map[Foreign][]int)
	for i, f := range programs {
		if f.Place != target {
			f.Place = ""
		}
		if groups[f] == nil {
			order = append(order, f)
		}
		groups[f] = append(groups[f], i)
	}
	slices.SortStableFunc(order, func(a, b Foreign) int {
		if a.Exclusive == b.Exclusive {
			return 0
		}
		if a.Exclusive {
			return -1
		}
		return 1
	})
	return func(yield func([]int) bool) {
		for _, f := range order {
			if !yield(groups[f]) {
				return
			}
		}
	}
}

func programTitle(f Foreign) string {
	title := "program " + cmp.Or(f.Name, "without a name")
	if name := owner(f.Name); name != "" {
		title += " (" + name + ")"
	}
	return title
}

// checkDevicePrograms looks at the links that carry default routes, and where
// packets are acquired.
func checkDevicePrograms(x *examination) []Finding {
	if x.netErr != nil {
		return []Finding{x.unknown("", x.netErr)}
	}
	var all []Finding
	uplinks := x.uplinks()
	for _, l := range x.network.Links {
		if !l.Uplink && !slices.Contains(uplinks, l.Name) {
			continue
		}
		programs, err := x.Kernel.ForeignOnDevice(l.Index)
		if err != nil {
			all = append(all, x.unknown("", fmt.Errorf("look at %s: %w", l.Name, err)))
		}
		for _, f := range programs {
			all = append(all, noted("", "%s on %s, %s: %s", programTitle(f), l.Name, f.Attach, x.seenBeside()))
		}
		for _, name := range l.Filters {
			all = append(all, noted("", "tc filter %s on %s: %s", name, l.Name, x.seenBeside()))
		}
	}
	if len(all) == 0 {
		return []Finding{fine("no programs of others on uplinks")}
	}
	return all[:min(len(all), maxListed)]
}
