package container

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// attributeType masks the flags of an attribute's type: NLA_TYPE_MASK of
// linux/netlink.h.
const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// translated returns the source that a flow had before the host translated it,
// or the zero value if connection tracking does not know the flow. It asks for the
// one entry whose answers would come from dest to source.
func translated(proc string, protocol flow.Protocol, source, dest netip.AddrPort) (netip.AddrPort, error) {
	source, dest = unmapped(source), unmapped(dest)
	if !source.IsValid() || source.Addr().BitLen() != dest.Addr().BitLen() || !tracks(proc) {
		return netip.AddrPort{}, nil
	}
	family := nl.FAMILY_V4
	if source.Addr().Is6() {
		family = nl.FAMILY_V6
	}
	// The answer says that more will come, and only an acknowledgement ends it.
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_ACK)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	request.AddData(tuple(protocol, dest, source))
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return netip.AddrPort{}, nil
	case err != nil:
		return netip.AddrPort{}, err
	}
	for _, answer := range answers {
		if origin, ok := originalSource(answer); ok {
			return origin, nil
		}
	}
	return netip.AddrPort{}, nil
}

func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// tracks reports whether the kernel tracks connections and can be asked about them
// without that it loads a module.
func tracks(proc string) bool {
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	if !exists(filepath.Join(proc, "sys/net/netfilter/nf_conntrack_max")) {
		return false
	}
	const modules = "/sys/module"
	loadable := exists(modules + "/nf_conntrack/initstate")
	return !loadable || exists(modules+"/nf_conntrack_netlink")
}

// tuple is the way of answers, CTA_TUPLE_REPLY of linux/netfilter/nfnetlink_conntrack.h.
func tuple(protocol flow.Protocol, from, to netip.AddrPort) *nl.RtAttr {
	sourceType, destType := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if from.Addr().Is6() {
		sourceType, destType = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	number := byte(unix.IPPROTO_TCP)
	if protocol == flow.UDP {
		number = unix.IPPROTO_UDP
	}
	reply := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)
	ip := reply.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(sourceType, from.Addr().AsSlice())
	ip.AddRtAttr(destType, to.Addr().AsSlice())
	ports := reply.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{number})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(from.Port()))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(to.Port()))
	return reply
}

// originalSource reads where the first packet of an entry came from.
func originalSource(answer []byte) (source netip.AddrPort, ok bool) {
	if len(answer) < nl.SizeofNfgenmsg {
		return source, false
	}
	original := attribute(answer[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG)
	ip, ports := attribute(original, nl.CTA_TUPLE_IP), attribute(original, nl.CTA_TUPLE_PROTO)
	raw := attribute(ip, nl.CTA_IP_V4_SRC)
	if raw == nil {
		raw = attribute(ip, nl.CTA_IP_V6_SRC)
	}
	addr, ok := netip.AddrFromSlice(raw)
	port := attribute(ports, nl.CTA_PROTO_SRC_PORT)
	if !ok || len(port) != 2 {
		return source, false
	}
	return netip.AddrPortFrom(addr, uint16(port[0])<<8|uint16(port[1])), true
}

// attribute returns the value of the first attribute of a type, or nil.
func attribute(list []byte, kind uint16) []byte {
	attributes, err := nl.ParseRouteAttr(list)
	if err != nil {
		return nil
	}
	for _, a := range attributes {
		if a.Attr.Type&attributeType == kind {
			return a.Value
		}
	}
	return nil
}
