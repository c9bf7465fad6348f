// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_PARSE_H
#define BPFACQ_PARSE_H

/* The headers of a packet that leaves by a device, or came by it. */

#include "address.h"
#include "flow.h"

#define IPV4_FRAGMENT 0x3fff /* more of them, or at an offset */
#define IPV4_OFFSET 0x1fff
#define IPV6_OFFSET 0xfff8
#define IPV6_EXTENSIONS 4 /* headers before that of the transport, more are not looked for */
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* One end of a packet is here, or behind this host; the other is remote. */
struct packet {
	__u8 src_addr[16];
	struct destination dst;
	__be16 src_port;
	__u32 fragment_id;
	__u32 transport;	/* where its header begins */
	__u8 protocol;		/* of the transport, or of the header beyond which nothing was read */
	__u8 fragment_protocol; /* as all fragments of a packet have it */
	__be32 tcp_seq;
	__u8 tcp_flags;
	bool is_fragment;
	bool is_first; /* of the fragments, or whole */
	bool has_ports;
};

/* The first bytes of a transport's header, as far as they matter. */
struct transport_head {
	__be16 src_port;
	__be16 dst_port;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
};

static __always_inline bool parse_ipv4(struct __sk_buff *skb, __u32 offset, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4)
		return false;
	map4(packet->src_addr, ip.saddr);
	map4(packet->dst.addr, ip.daddr);
	packet->protocol = ip.protocol;
	packet->fragment_protocol = ip.protocol;
	packet->transport = offset + ip.ihl * 4;
	packet->fragment_id = ip.id;
	packet->is_fragment = ip.frag_off & bpf_htons(IPV4_FRAGMENT);
	packet->is_first = !(ip.frag_off & bpf_htons(IPV4_OFFSET));
	return true;
}

/* Whether TCP or UDP may come after a header of IPv6. */
static __always_inline bool is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_DSTOPTS ||
	       header == IPPROTO_FRAGMENT;
}

static __always_inline bool parse_ipv6(struct __sk_buff *skb, __u32 offset, struct packet *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(packet->src_addr, &ip.saddr, sizeof(packet->src_addr));
	__builtin_memcpy(packet->dst.addr, &ip.daddr, sizeof(packet->dst.addr));
	packet->is_first = true;
	offset += sizeof(ip);
	__u8 next = ip.nexthdr;

#pragma clang loop unroll(full)
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		struct {
			__u8 next, length;
			__be16 fragment;
			__be32 id;
		} extension;

		if (!is_extension(next) || bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			break;
		if (next == IPPROTO_FRAGMENT) {
			packet->is_fragment = true;
			packet->is_first = !(extension.fragment & bpf_htons(IPV6_OFFSET));
			packet->fragment_id = extension.id;
			packet->fragment_protocol = extension.next;
			offset += sizeof(extension);
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
		if (!packet->is_first)
			break;
	}
	packet->protocol = next;
	packet->transport = offset;
	return true;
}

static __always_inline bool parse_ports(struct __sk_buff *skb, struct packet *packet)
{
	struct transport_head head = {};

	if (packet->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, packet->transport, &head, offsetof(struct transport_head, flags) + 1))
			return false;
	} else if (bpf_skb_load_bytes(skb, packet->transport, &head, offsetof(struct transport_head, seq))) {
		return false;
	}
	packet->src_port = head.src_port;
	packet->dst.port = head.dst_port;
	packet->tcp_seq = head.seq;
	packet->tcp_flags = head.flags;
	return true;
}

/* Whether an IP packet begins at offset. Ports are those of TCP and UDP, of a first fragment that holds them. */
static __always_inline bool parse(struct __sk_buff *skb, __u32 offset, bool is4, struct packet *packet)
{
	__builtin_memset(packet, 0, sizeof(*packet));
	if (is4 ? !parse_ipv4(skb, offset, packet) : !parse_ipv6(skb, offset, packet))
		return false;
	if (packet->is_first && (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP))
		packet->has_ports = parse_ports(skb, packet);
	return true;
}

#endif
