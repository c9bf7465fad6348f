//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The packet path: what the socket path does not take, at the devices by which
 * it leaves.
 *
 *   egress of an uplink    decide, and send to the uplink's enclave what is acquired
 *   ingress of an uplink   learn which flows the other side opens
 *   ingress of the pair    make what leaves the enclave arrive at the uplink
 *   sk_lookup, in there    hand it to the relay's sockets, or refuse it
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "judge.h"
#include "opening.h"
#include "packet.h"
#include "parse.h"
#include "policy.h"
#include "tag.h"
#include "uplink.h"

#define REPLY_MARK 0xb9fa /* in tc_index: what an enclave sent, until the ingress of its uplink has seen it */

/* The sockets of a relay, as an enclave's own bpfacq_socket has them. */
enum relay_socket {
	RELAY_TCP4,
	RELAY_TCP6,
	RELAY_UDP4,
	RELAY_UDP6,
	RELAY_SOCKETS,
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, RELAY_SOCKETS);
	__type(key, __u32);
	__type(value, __u64);
} bpfacq_socket SEC(".maps");

const enum relay_socket *const binding_relay_socket;

static __always_inline bool is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/*
 * Sends a packet to the enclave. The far end of the pair takes only what is for
 * its own address, which a packet to a gateway is not; and its answers are for
 * the uplink's address, which the packet itself tells.
 */
static __always_inline int to_enclave(struct __sk_buff *skb, struct uplink *uplink, bool learn)
{
	struct ethhdr head = { .h_proto = skb->protocol };

	if (!uplink->pair)
		return TC_ACT_SHOT;
	__builtin_memcpy(head.h_dest, uplink->pair_mac, MAC_LEN);
	if (uplink->is_l3) {
		if (bpf_skb_change_head(skb, sizeof(head), 0) || bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0)) {
			count(COUNTER_BUG_PACKET);
			return TC_ACT_SHOT;
		}
		return bpf_redirect(uplink->pair, 0);
	}

	__u64 mac = 0;
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), &mac, MAC_LEN) ||
	    bpf_skb_store_bytes(skb, 0, head.h_dest, MAC_LEN, 0)) {
		count(COUNTER_BUG_PACKET);
		return TC_ACT_SHOT;
	}
	if (learn && uplink->mac != mac)
		*(volatile __u64 *)&uplink->mac = mac;
	return bpf_redirect(uplink->pair, 0);
}

/* What a way comes to. Others than those named here leave as if nobody had looked. */
static __always_inline int go(struct __sk_buff *skb, struct uplink *uplink, enum counter way)
{
	count(way);
	switch (way) {
	case COUNTER_PACKET_ACQUIRE:
	case COUNTER_PACKET_REFUSE:
		return to_enclave(skb, uplink, true);
	case COUNTER_PACKET_STRAY:
	case COUNTER_PACKET_ERROR:
		return to_enclave(skb, uplink, false);
	case COUNTER_PACKET_BLOCK:
	case COUNTER_PACKET_UNPLACED:
	case COUNTER_BUG_TAG_STORAGE:
	case COUNTER_BUG_PACKET:
		return TC_ACT_SHOT;
	default:
		return TC_ACT_UNSPEC;
	}
}

SEC("tc")
int bpfacq_egress(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *uplink = bpf_map_lookup_elem(&bpfacq_uplink, &ifindex);
	struct egress egress = { .agent = agent_state(), .uplink = uplink, .generation = policy_generation() };

	if (!uplink || !egress.agent || !egress.agent->packets || !egress.generation)
		return go(skb, uplink, COUNTER_PACKET_INACTIVE);
	if (skb->vlan_present || !is_ip(skb))
		return go(skb, uplink, COUNTER_PACKET_OTHER);
	return go(skb, uplink, way_out(skb, &egress, skb->protocol == bpf_htons(ETH_P_IP)));
}

/* Attached before the egress: what an enclave answers is told from what the network sends. */
SEC("tc")
int bpfacq_arrive(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct uplink *uplink = bpf_map_lookup_elem(&bpfacq_uplink, &ifindex);
	const struct agent *agent = agent_state();
	struct packet packet;

	if (skb->tc_index == REPLY_MARK) {
		skb->tc_index = 0;
		return TC_ACT_UNSPEC;
	}
	if (!uplink || !agent || !agent->packets || skb->vlan_present || !is_ip(skb) || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (!parse(skb, uplink->is_l3 ? 0 : sizeof(struct ethhdr), skb->protocol == bpf_htons(ETH_P_IP), &packet) ||
	    packet.protocol != IPPROTO_UDP || !packet.has_ports)
		return TC_ACT_UNSPEC;
	if (opens_flow(skb, agent, &packet))
		count(COUNTER_PACKET_OPENED);
	return TC_ACT_UNSPEC;
}

/* Nothing that leaves an enclave gets into the host by any other way than its uplink. */
SEC("tc")
int bpfacq_reply(struct __sk_buff *skb)
{
	__u32 pair = skb->ifindex;
	const __u32 *ifindex = bpf_map_lookup_elem(&bpfacq_pair, &pair);
	const struct uplink *uplink = ifindex ? bpf_map_lookup_elem(&bpfacq_uplink, ifindex) : NULL;

	if (!uplink || !is_ip(skb) || skb->pkt_type == PACKET_BROADCAST || skb->pkt_type == PACKET_MULTICAST) {
		count(COUNTER_REPLY_DROP);
		return TC_ACT_SHOT;
	}
	__u64 mac = *(volatile __u64 *)&uplink->mac;
	if (!uplink->is_l3 && bpf_skb_store_bytes(skb, 0, &mac, MAC_LEN, 0)) {
		count(COUNTER_BUG_PACKET);
		return TC_ACT_SHOT;
	}
	skb->tc_index = REPLY_MARK;
	count(COUNTER_REPLY);
	return bpf_redirect(*ifindex, BPF_F_INGRESS);
}

static __always_inline void local_end(struct bpf_sk_lookup *ctx, struct destination *dst)
{
	__be32 *word = (__be32 *)dst->addr;

	dst->port = bpf_htons(ctx->local_port);
	if (ctx->family == AF_INET) {
		/* volatile: clang would load one of two fields, which the verifier refuses. */
		map4(dst->addr, *(volatile __u32 *)&ctx->local_ip4);
		return;
	}
	word[0] = ctx->local_ip6[0];
	word[1] = ctx->local_ip6[1];
	word[2] = ctx->local_ip6[2];
	word[3] = ctx->local_ip6[3];
}

/*
 * Runs for what no socket of the enclave is connected to: SYNs, datagrams, and
 * segments of connections that the relay does not know. What is refused here the
 * kernel answers with a reset, or with port unreachable.
 */
SEC("sk_lookup")
int bpfacq_lookup(struct bpf_sk_lookup *ctx)
{
	__u32 generation = policy_generation(), protocol = ctx->protocol;
	const struct agent *agent = agent_state();
	struct judgement judgement;
	struct destination dst;

	local_end(ctx, &dst);
	if (!agent || !generation || !judge_recent(generation, protocol, &dst, &judgement) ||
	    judged_way(&judgement, protocol, true) != COUNTER_PACKET_ACQUIRE) {
		count(COUNTER_LOOKUP_REFUSE);
		return SK_DROP;
	}
	__u32 key = (protocol == IPPROTO_UDP ? RELAY_UDP4 : RELAY_TCP4) + (ctx->family == AF_INET6);
	struct bpf_sock *sk = bpf_map_lookup_elem(&bpfacq_socket, &key);
	if (!sk) {
		count(COUNTER_BUG_RELAY_SOCKET);
		return SK_DROP;
	}
	long refused = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	count(refused ? COUNTER_BUG_RELAY_SOCKET : COUNTER_LOOKUP_ACQUIRE);
	return refused ? SK_DROP : SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
