// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_PACKET_H
#define BPFACQ_PACKET_H

/*
 * The way of a packet that leaves by an uplink. A way is named by its counter;
 * packet.c says what it comes to.
 */

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "judge.h"
#include "opening.h"
#include "parse.h"
#include "peer.h"
#include "tag.h"
#include "uplink.h"

#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMPV6_ERRORS 128 /* types below it */
#define ICMP_HEADER 8

/* What holds for a packet while its way is looked for. */
struct egress {
	const struct agent *agent;
	const struct uplink *uplink;
	__u32 generation;
};

static __always_inline bool is_served(const struct egress *egress)
{
	return *(volatile __u32 *)&egress->uplink->pair && is_lease_fresh(egress->agent);
}

static __always_inline enum counter way_of(const struct egress *egress, const struct judgement *judgement,
					   __u32 protocol)
{
	if (judgement->ruling == RULING_PASS)
		return judgement->why;
	return judged_way(judgement, protocol, is_served(egress));
}

static __always_inline bool is_passing(enum counter way)
{
	return way <= COUNTER_PACKET_ANSWER;
}

/* Leaves for people whose an acquired flow is, once for a socket and source port. */
static __always_inline void note_source(struct __sk_buff *skb, struct tag *tag, const struct packet *packet)
{
	if (tag->source_port == packet->src_port)
		return;
	struct source_key key = { .port = packet->src_port, .protocol = packet->protocol };
	struct source source = { .cookie = bpf_get_socket_cookie(skb), .pid = tag->pid, .uid = tag->uid };

	__builtin_memcpy(key.addr, packet->src_addr, sizeof(key.addr));
	bpf_map_update_elem(&bpfacq_source, &key, &source, BPF_ANY);
	tag->source_port = packet->src_port;
}

/* Whether a hook sent a socket to this original address because a rule of its name said so. */
static __always_inline bool is_moved_udp(struct bpf_sock *sk, const struct destination *dst)
{
	struct peers *peers = bpf_sk_storage_get(&bpfacq_peer, sk, NULL, 0);
	struct peer found;

	return peers && peer_find(peers, dst, &found) && found.course == COURSE_PASS;
}

static __always_inline bool is_moved_tcp(struct bpf_sock *sk)
{
	struct record *record = bpf_sk_storage_get(&bpfacq_client, sk, NULL, 0);

	return record && (record->kind != KIND_DIRECT || record->course == COURSE_PASS);
}

/* The judgement of datagrams to a new destination of a local socket, or of none. */
static __always_inline bool judge_datagram(const struct egress *egress, struct bpf_sock *sk,
					   const struct packet *packet, struct judgement *judgement)
{
	*judgement = (struct judgement){ .generation = egress->generation };
	if (sk && bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0)) {
		judge_pass(judgement, COUNTER_PACKET_EXEMPT);
		return true;
	}
	if (sk && is_moved_udp(sk, &packet->dst)) {
		judge_pass(judgement, COUNTER_PACKET_MOVED);
		return true;
	}
	return judge_recent(egress->generation, IPPROTO_UDP, &packet->dst, judgement);
}

/* The way of a datagram. sk is the local socket that sent it, or NULL. */
static __always_inline enum counter way_udp(struct __sk_buff *skb, const struct egress *egress, struct bpf_sock *sk,
					    const struct packet *packet)
{
	struct judgement judgement = {};
	__u32 opener = OPENER_NONE;
	bool found = false;
	struct tag *tag = NULL;

	if (sk) {
		tag = bpf_sk_storage_get(&bpfacq_tag, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!tag)
			count(COUNTER_BUG_TAG_STORAGE);
		else if (tag->is_foreign)
			return COUNTER_PACKET_FOREIGN;
		else
			found = tag_find(tag, &packet->dst, egress->generation, &judgement, &opener);
	}
	if (!found && !judge_datagram(egress, sk, packet, &judgement))
		return COUNTER_BUG_PACKET;

	enum counter way = way_of(egress, &judgement, IPPROTO_UDP);
	if (judgement.ruling != RULING_PASS) {
		if (opener != OPENER_HERE) /* an answer that comes late may be none */
			opener = opener_from(egress->agent, sk, packet);
		if (opener == OPENER_THERE)
			way = COUNTER_PACKET_ANSWER;
	}
	if (!tag)
		return way;
	if (!found) {
		if (judgement.is_synthetic)
			judgement.generation = 0; /* names come and go without one */
		tag_keep(tag, &packet->dst, &judgement, opener);
	}
	if (way == COUNTER_PACKET_ACQUIRE)
		note_source(skb, tag, packet);
	return way;
}

/*
 * The way of a local connection: its SYN is decided about, and all else follows.
 * A generation that comes meanwhile changes nothing, nor does the end of the lease:
 * the far end of the connection is the relay.
 */
static __always_inline enum counter way_connection(struct __sk_buff *skb, const struct egress *egress,
						   struct bpf_sock *sk, const struct packet *packet)
{
	struct tag *tag = bpf_sk_storage_get(&bpfacq_tag, sk, NULL, 0);
	struct judgement judgement = {};

	if (tag && tag->is_foreign)
		return COUNTER_PACKET_FOREIGN;
	if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN) {
		if (!tag || tag->judgement.ruling == RULING_NONE)
			return COUNTER_PACKET_UNTAGGED;
		return COUNTER_PACKET_ACQUIRE;
	}

	enum counter way;
	if (bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0))
		way = COUNTER_PACKET_EXEMPT;
	else if (is_moved_tcp(sk))
		way = COUNTER_PACKET_MOVED;
	else if (judge_recent(egress->generation, IPPROTO_TCP, &packet->dst, &judgement))
		way = way_of(egress, &judgement, IPPROTO_TCP);
	else
		way = COUNTER_BUG_PACKET;

	if (way != COUNTER_PACKET_ACQUIRE) {
		if (tag)
			tag->judgement.ruling = RULING_NONE;
		return way;
	}
	if (!tag)
		tag = bpf_sk_storage_get(&bpfacq_tag, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tag)
		return COUNTER_BUG_TAG_STORAGE; /* what follows would not: wait for another SYN */
	tag_keep(tag, &packet->dst, &judgement, OPENER_HERE);
	note_source(skb, tag, packet);
	return way;
}

/*
 * The way of a segment that no open socket of this host sent: forwarded, or an
 * answer of the kernel to what it knows no socket for. A connection that was opened
 * from there was answered with a SYN before.
 */
static __always_inline enum counter way_segment(const struct egress *egress, const struct packet *packet, bool forwarded)
{
	__u8 flags = packet->tcp_flags;
	struct judgement judgement;
	struct flow_key key = {};

	if (!judge_recent(egress->generation, IPPROTO_TCP, &packet->dst, &judgement))
		return COUNTER_BUG_PACKET;
	enum counter way = way_of(egress, &judgement, IPPROTO_TCP);
	if (is_passing(way))
		return way;
	flow_of(packet, &key);
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		bpf_map_delete_elem(&bpfacq_opening, &key); /* of an earlier connection of the same ends */
		return way;
	}
	/* The answer to a SYN for which nobody listens has no sequence (RFC 9293, 3.10.7.1). */
	if ((flags & (TCP_RST | TCP_ACK)) == (TCP_RST | TCP_ACK) && !packet->tcp_seq)
		return COUNTER_PACKET_ANSWER;
	if (flags & TCP_SYN) {
		open_flow(&key, OPENER_THERE);
		return COUNTER_PACKET_ANSWER;
	}
	if (opener_of(&key) == OPENER_THERE)
		return COUNTER_PACKET_ANSWER;
	return way == COUNTER_PACKET_ACQUIRE && !forwarded ? COUNTER_PACKET_STRAY : way;
}

static __always_inline void fragment_of(const struct packet *packet, struct fragment_key *key)
{
	__builtin_memcpy(key->local_addr, packet->src_addr, sizeof(key->local_addr));
	__builtin_memcpy(key->remote_addr, packet->dst.addr, sizeof(key->remote_addr));
	key->id = packet->fragment_id;
	key->protocol = packet->fragment_protocol;
}

/*
 * The way of TCP or UDP without ports to decide by. Fragments go the way of the
 * first one. What cannot be told must not get to where a rule may be against it.
 */
static __always_inline enum counter way_portless(const struct egress *egress, const struct packet *packet)
{
	const __be32 *word = (const __be32 *)packet->dst.addr;
	struct fragment_key key = {};

	fragment_of(packet, &key);
	struct fragment *fragment = packet->is_first ? NULL : bpf_map_lookup_elem(&bpfacq_fragment, &key);
	if (fragment)
		return fragment->way;
	if (policy_row(egress->generation % SLOTS, word[0], word[1], word[2], word[3]) >= 0)
		return COUNTER_PACKET_UNPLACED;
	return COUNTER_PACKET_UNMATCHED;
}

static __always_inline void note_fragment(const struct packet *packet, enum counter way)
{
	struct fragment_key key = {};
	struct fragment fragment = { .way = way };

	fragment_of(packet, &key);
	bpf_map_update_elem(&bpfacq_fragment, &key, &fragment, BPF_ANY);
}

/* Where the packet begins that an ICMP error quotes, or 0 where it quotes none. */
static __always_inline __u32 quoted(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 type;

	if (bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)))
		return 0;
	if (packet->protocol == IPPROTO_ICMP ? type != ICMP_UNREACHABLE && type != ICMP_QUENCH && type != ICMP_TIME_EXCEEDED &&
						       type != ICMP_PARAMETER
					     : type >= ICMPV6_ERRORS)
		return 0;
	return packet->transport + ICMP_HEADER;
}

/*
 * The way of an ICMP error: where the packet came from that it is about. What
 * came from an enclave came in the name of its original destination, which must not
 * hear of it; and the relay must, to learn that a path is narrow.
 */
static __always_inline enum counter way_error(struct __sk_buff *skb, const struct egress *egress,
					      struct packet *packet)
{
	bool is4 = packet->protocol == IPPROTO_ICMP;
	__u32 offset = quoted(skb, packet);
	struct judgement judgement;
	struct flow_key key = {};

	if (!offset || !parse(skb, offset, is4, packet) || !packet->has_ports)
		return COUNTER_PACKET_OTHER;
	struct destination remote = { .port = packet->src_port };
	__builtin_memcpy(remote.addr, packet->src_addr, sizeof(remote.addr));
	if (!judge_recent(egress->generation, packet->protocol, &remote, &judgement))
		return COUNTER_BUG_PACKET;
	enum counter way = way_of(egress, &judgement, packet->protocol);
	if (is_passing(way))
		return COUNTER_PACKET_OTHER;
	__builtin_memcpy(key.local_addr, packet->dst.addr, sizeof(key.local_addr));
	__builtin_memcpy(key.remote_addr, remote.addr, sizeof(key.remote_addr));
	key.local_port = packet->dst.port;
	key.remote_port = remote.port;
	key.protocol = packet->protocol;
	if (opener_of(&key) == OPENER_THERE)
		return COUNTER_PACKET_ANSWER;
	return way == COUNTER_PACKET_BLOCK ? way : COUNTER_PACKET_ERROR;
}

/*
 * Whether an answer of the kernel's own is that of another namespace which shares
 * the device: no socket tells, but such a namespace has an address of its own.
 */
static __always_inline bool is_neighbour(struct __sk_buff *skb, const struct uplink *uplink)
{
	__u64 mac = 0, known = *(volatile __u64 *)&uplink->mac;

	if (has_tc_netns || uplink->is_l3 || !known)
		return false;
	return !bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), &mac, MAC_LEN) && mac != known;
}

/* The way of a packet with ports. */
static __always_inline enum counter way_ports(struct __sk_buff *skb, const struct egress *egress, struct bpf_sock *sk,
					      const struct packet *packet)
{
	bool forwarded = !skb->sk && skb->ingress_ifindex;

	if (packet->protocol == IPPROTO_UDP && sk && sk->type != SOCK_DGRAM) {
		/* A tunnel of the host's own keeps the socket of what is in it. */
		if (bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0))
			return COUNTER_PACKET_EXEMPT;
		sk = NULL;
	}
	if (packet->protocol == IPPROTO_UDP)
		return way_udp(skb, egress, sk, packet);
	if (sk && sk->type == SOCK_STREAM)
		return way_connection(skb, egress, sk, packet);
	if (skb->sk && is_neighbour(skb, egress->uplink))
		return COUNTER_PACKET_FOREIGN;
	return way_segment(egress, packet, forwarded);
}

/* The way of a packet that leaves by an uplink. */
static __always_inline enum counter way_out(struct __sk_buff *skb, const struct egress *egress, bool is4)
{
	struct bpf_sock *sk = skb->sk;
	struct packet packet;

	if (!parse(skb, egress->uplink->is_l3 ? 0 : sizeof(struct ethhdr), is4, &packet))
		return COUNTER_PACKET_OTHER;
	if (!sk && skb->ingress_ifindex && !egress->agent->containers)
		return COUNTER_PACKET_FORWARDED;
	if (sk && has_tc_netns && bpf_get_netns_cookie(skb) != egress->agent->netns_cookie)
		return COUNTER_PACKET_FOREIGN;
	if (packet.protocol == (is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) && packet.is_first)
		return way_error(skb, egress, &packet);
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP && (is4 || !is_extension(packet.protocol)))
		return COUNTER_PACKET_OTHER;
	if (!packet.has_ports)
		return way_portless(egress, &packet);
	if (sk)
		sk = bpf_sk_fullsock(sk);
	enum counter way = way_ports(skb, egress, sk, &packet);
	if (packet.is_fragment)
		note_fragment(&packet, way);
	return way;
}

#endif
