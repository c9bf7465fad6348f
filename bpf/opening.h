// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_OPENING_H
#define BPFACQ_OPENING_H

/* Which side opened a flow: what a server here answers is not acquired. */

#include "flow.h"
#include "judge.h"
#include "parse.h"
#include "tag.h"

#define OPENING_KEPT 180000000000ULL   /* nanoseconds after the last datagram, as conntrack keeps a stream */
#define OPENING_GUESSED 30000000000ULL /* nanoseconds of learning after which who was not seen to open a flow did not */
#define OPENING_RENEWED 1000000000ULL  /* nanoseconds after which a packet is worth a write */

static __always_inline void flow_of(const struct packet *packet, struct flow_key *key)
{
	__builtin_memcpy(key->local_addr, packet->src_addr, sizeof(key->local_addr));
	__builtin_memcpy(key->remote_addr, packet->dst.addr, sizeof(key->remote_addr));
	key->local_port = packet->src_port;
	key->remote_port = packet->dst.port;
	key->protocol = packet->protocol;
}

static __always_inline bool is_learning(const struct agent *agent)
{
	return bpf_ktime_get_ns() >= *(volatile __u64 *)&agent->learn_from;
}

/* Whether also flows that are older than the learning were seen from both sides, if they have two. */
static __always_inline bool has_learnt(const struct agent *agent)
{
	__u64 from = *(volatile __u64 *)&agent->learn_from;

	return !from || bpf_ktime_get_ns() >= from + OPENING_GUESSED;
}

/* Who opened a flow. TCP knows its end; of UDP what was long ago was another flow. */
static __always_inline __u32 opener_of(const struct flow_key *key)
{
	struct opening *opening = bpf_map_lookup_elem(&bpfacq_opening, key);

	if (!opening)
		return OPENER_NONE;
	__u64 now = bpf_ktime_get_ns(), idle = now - opening->seen;
	if (key->protocol == IPPROTO_UDP && idle > OPENING_KEPT && (__s64)idle > 0)
		return OPENER_NONE;
	if (idle > OPENING_RENEWED)
		opening->seen = now;
	return opening->opener;
}

static __always_inline void open_flow(const struct flow_key *key, enum opener opener)
{
	struct opening opening = { .seen = bpf_ktime_get_ns(), .opener = opener };

	/* An LRU makes room; what it forgets is acquired. */
	bpf_map_update_elem(&bpfacq_opening, key, &opening, BPF_ANY);
}

/* Whether the socket of a packet is connected to where it goes: that of what is in a tunnel's packet is not. */
static __always_inline bool is_connected(const struct bpf_sock *sk, const struct packet *packet)
{
	return sk && sk->dst_port == packet->dst.port;
}

/*
 * Who opened the flow of a packet that leaves: this side, if the other was not seen
 * to. Until it would have been that is a guess, and not kept, unless the socket is
 * connected, as those of servers are not: a server that speaks all the time would
 * else never be asked.
 */
static __always_inline __u32 opener_from(const struct agent *agent, const struct bpf_sock *sk,
					 const struct packet *packet)
{
	struct flow_key key = {};

	flow_of(packet, &key);
	__u32 opener = opener_of(&key);
	if (opener != OPENER_NONE)
		return opener;
	if (!has_learnt(agent) && !is_connected(sk, packet))
		return OPENER_NONE;
	open_flow(&key, OPENER_HERE);
	return OPENER_HERE;
}

/* A datagram came from the network: of a Tunnel destination it opens a flow. */
static __always_inline bool opens_flow(struct __sk_buff *skb, const struct agent *agent, const struct packet *packet)
{
	struct destination remote = { .port = packet->src_port };
	__u32 generation = policy_generation();
	struct judgement judgement;
	struct flow_key key = {};

	if (!generation || !is_learning(agent))
		return false;
	__builtin_memcpy(remote.addr, packet->src_addr, sizeof(remote.addr));
	if (!judge_recent(generation, IPPROTO_UDP, &remote, &judgement) || judgement.ruling == RULING_PASS)
		return false;
	__builtin_memcpy(key.local_addr, packet->dst.addr, sizeof(key.local_addr));
	__builtin_memcpy(key.remote_addr, remote.addr, sizeof(key.remote_addr));
	key.local_port = packet->dst.port;
	key.remote_port = remote.port;
	key.protocol = IPPROTO_UDP;
	if (opener_of(&key) != OPENER_NONE)
		return false;
	open_flow(&key, OPENER_THERE);
	return true;
}

#endif
