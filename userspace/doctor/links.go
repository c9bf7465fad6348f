package doctor

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// keepEdgesOut is what to do about another tunnel.
const keepEdgesOut = "see that its routes leave the edges alone: ip route get EDGE"

// maxDescriptors bounds the search for the process that holds a device.
const maxDescriptors = 200_000

// makers are the clients whose links are known by name. A star stands for the
// rest of a name.
func makers() map[string]string {
	return map[string]string{
		"tailscale*":     "Tailscale",
		"CloudflareWARP": "Cloudflare WARP",
		"wt0":            "NetBird",
		"zt*":            "ZeroTier",
		"ziti*":          "OpenZiti",
		"nebula*":        "Nebula",
		"cscotun*":       "Cisco Secure Client",
		"gpd*":           "GlobalProtect",
		"nordlynx":       "NordVPN",
		"Meta":           "mihomo",
		"dae0":           "dae",
	}
}

// maker is the client that a link's name is known for.
func maker(link string) string {
	for name, client := range makers() {
		stem, wild := strings.CutSuffix(name, "*")
		if link == name || wild && strings.HasPrefix(link, stem) {
			return client
		}
	}
	return ""
}

func checkTUN(x *examination) []Finding {
	if x.netErr != nil {
		return []Finding{x.unknown("", x.netErr)}
	}
	var all []Finding
	var holders map[string]string
	for _, l := range x.network.Links {
		if l.Kind != "tun" && l.Kind != "tuntap" {
			continue
		}
		if holders == nil {
			holders = tunHolders(x.Root)
		}
		who := strings.Join(nonEmpty(maker(l.Name), holders[l.Name]), ", ")
		name := l.Name + " (" + cmp.Or(who, "of whom is not known") + ")"
		if l.Uplink {
			all = append(all, warned(keepEdgesOut,
				"TUN device %s has a default route: the connections to the edges go into it, too", name))
			continue
		}
		all = append(all, noted(keepEdgesOut, "TUN device %s: acquired TCP never reaches it, since connect() is decided first", name))
	}
	if len(all) == 0 {
		return []Finding{fine("no TUN devices")}
	}
	return all
}

func nonEmpty(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

// tunHolders finds the processes that hold TUN devices, by the device's name.
// Without privilege they are not to be seen.
func tunHolders(root fs.FS) map[string]string {
	holders := make(map[string]string)
	processes, err := fs.ReadDir(root, "proc")
	if err != nil {
		return holders
	}
	seen := 0
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		descriptors, err := fs.ReadDir(root, path.Join("proc", process.Name(), "fd"))
		if err != nil {
			continue
		}
		for _, d := range descriptors {
			if seen++; seen > maxDescriptors {
				return holders
			}
			target, err := fs.ReadLink(root, path.Join("proc", process.Name(), "fd", d.Name()))
			if err != nil || target != "/dev/net/tun" {
				continue
			}
			if device := tunDevice(root, process.Name(), d.Name()); device != "" {
				comm := firstLine(root, path.Join("proc", process.Name(), "comm"))
				holders[device] = fmt.Sprintf("%s, process %d", comm, pid)
			}
		}
	}
	return holders
}

// tunDevice reads which device an open descriptor of /dev/net/tun stands for.
func tunDevice(root fs.FS, process, descriptor string) string {
	content, err := text(root, path.Join("proc", process, "fdinfo", descriptor))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(content) {
		if device, ok := strings.CutPrefix(line, "iff:"); ok {
			return strings.TrimSpace(device)
		}
	}
	return ""
}

func checkWireGuard(x *examination) []Finding {
	if x.netErr != nil {
		return []Finding{x.unknown("", x.netErr)}
	}
	var all []Finding
	for _, l := range x.network.Links {
		if l.Kind != "wireguard" {
			continue
		}
		name := l.Name
		if client := maker(l.Name); client != "" {
			name += " (" + client + ")"
		}
		switch {
		case l.MarkErr != nil:
			f := x.unknown("", l.MarkErr)
			f.Cause = fmt.Sprintf("WireGuard device %s, mark not known: %v", name, l.MarkErr)
			all = append(all, f)
		case l.Mark != 0:
			all = append(all, noted(keepEdgesOut, "WireGuard device %s marks its own packets %#x; bpfacq never acquires them, "+
				"sets no mark and reads none", name, l.Mark))
		default:
			all = append(all, noted(keepEdgesOut, "WireGuard device %s without a mark: bpfacq never acquires its own packets", name))
		}
	}
	if len(all) == 0 {
		return []Finding{fine("no WireGuard devices")}
	}
	return all
}

func checkRouting(x *examination) []Finding {
	if x.netErr != nil {
		return []Finding{x.unknown("", x.netErr)}
	}
	var all []Finding
	for _, r := range x.network.Rules {
		family := "IPv4"
		if r.IPv6 {
			family = "IPv6"
		}
		mark := fmt.Sprintf("%#x/%#x", r.Mark, r.Mask)
		if r.Mask == ^uint32(0) {
			mark = fmt.Sprintf("%#x", r.Mark)
		}
		if r.Not {
			all = append(all, warned(keepEdgesOut,
				"%s rule %d sends all packets without mark %s to table %d: the connections to the edges, too", family, r.Priority, mark, r.Table))
			continue
		}
		all = append(all, noted("",
			"%s rule %d sends packets with mark %s to table %d: bpfacq sets no marks", family, r.Priority, mark, r.Table))
	}
	if len(all) == 0 {
		return []Finding{fine("no rules that look at marks")}
	}
	return all
}
