// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_JUDGE_H
#define BPFACQ_JUDGE_H

/* What the policy says of packets, and which way they go by that. */

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "policy.h"
#include "tag.h"

static __always_inline bool has_original(const struct agent *agent, const struct name *name)
{
	return name->has_orig && !is_in_pool(agent, name->orig_addr);
}

/* Whether the edges of a channel carry datagrams, or were not asked yet. */
static __always_inline bool carries_datagrams(__u32 slot, __u32 index)
{
	void *channels = bpf_map_lookup_elem(&bpfacq_channel, &slot);
	const struct channel *channel = channels ? bpf_map_lookup_elem(channels, &index) : NULL;

	return !channel || *(volatile __u8 *)&channel->datagrams != DATAGRAMS_REFUSED;
}

static __always_inline void judge_pass(struct judgement *judgement, enum counter why)
{
	judgement->ruling = RULING_PASS;
	judgement->why = why;
}

/* A judgement as one number, which a global function can return. */
enum judged {
	JUDGED_RULING = 7, /* these bits */
	JUDGED_HARDENING_SHIFT = 3,
	JUDGED_HARDENING = 3, /* these bits, shifted */
	JUDGED_SYNTHETIC = 1 << 5,
	JUDGED_CHANNEL_SHIFT = 6,
};

/* What an entry wants of the packet path. Without one that is nothing. */
static __always_inline __u32 judged_by(struct match match)
{
	const struct entry *entry = match.entry;

	if (!entry) {
		if (match.why == COUNTER_BUG_POLICY_TORN)
			count(match.why);
		return RULING_PASS;
	}
	if (entry->action != ACTION_TUNNEL && entry->action != ACTION_REJECT)
		return RULING_PASS;
	return (entry->action == ACTION_REJECT ? RULING_REJECT : RULING_TUNNEL) |
	       (entry->hardening & JUDGED_HARDENING) << JUDGED_HARDENING_SHIFT | entry->channel << JUDGED_CHANNEL_SHIFT;
}

/*
 * What the policy in a slot says of packets to the address of four words and a
 * port (network byte order). The egress of an uplink asks, and the enclave asks
 * again of what it gets from there. A global function of numbers alone: the
 * verifier walks through it once.
 */
__noinline int judge_words(__u32 slot_protocol_port, __be32 a, __be32 b, __be32 c, __be32 d)
{
	__u32 slot = slot_protocol_port % SLOTS, protocol = slot_protocol_port >> 8 & 0xff;
	__be16 port = slot_protocol_port >> 16;
	struct name_key key;
	__be32 *word = (__be32 *)key.addr;

	struct match match = policy_match_row(slot, policy_row(slot, a, b, c, d), protocol, port);
	if (!match.entry || match.entry->action != ACTION_SYNTHETIC)
		return judged_by(match);

	word[0] = a;
	word[1] = b;
	word[2] = c;
	word[3] = d;
	const struct agent *agent = agent_state();
	const struct name *name = policy_name(slot, key.addr);
	if (!name || !agent)
		return JUDGED_SYNTHETIC | RULING_REFUSE;
	bool has_orig = has_original(agent, name);
	int row = name->row;
	match = policy_match_row(slot, row, protocol, port);
	if (!match.entry && match.why == COUNTER_PASS_UNMATCHED) {
		/* No rule of the name covers the port: what holds is that of its original address. */
		word = (__be32 *)name->orig_addr;
		if (has_orig)
			match = policy_match_row(slot, policy_row(slot, word[0], word[1], word[2], word[3]), protocol, port);
	}
	__u32 judged = judged_by(match);
	if (judged == RULING_PASS)
		judged = has_orig ? RULING_AGENT : RULING_REFUSE;
	return JUDGED_SYNTHETIC | judged;
}

static __always_inline void judge(__u32 generation, __u32 protocol, const struct destination *dst,
				  struct judgement *judgement)
{
	const __be32 *word = (const __be32 *)dst->addr;
	__u32 judged = judge_words(generation % SLOTS | protocol << 8 | (__u32)dst->port << 16, word[0], word[1], word[2],
				   word[3]);

	*judgement = (struct judgement){
		.generation = generation,
		.channel = judged >> JUDGED_CHANNEL_SHIFT,
		.ruling = judged & JUDGED_RULING,
		.hardening = judged >> JUDGED_HARDENING_SHIFT & JUDGED_HARDENING,
		.is_synthetic = !!(judged & JUDGED_SYNTHETIC),
		.why = COUNTER_PACKET_UNMATCHED,
	};
}

static __always_inline __u32 recent_index(__u32 protocol, const struct destination *dst)
{
	const __u64 *half = (const __u64 *)dst->addr;
	__u64 hash = (half[0] ^ (half[1] + (((__u64)dst->port << 8) | protocol))) * 0x9e3779b97f4a7c15ULL;

	return hash >> (64 - RECENT_BITS);
}

/* As judge, but what was judged just before is at hand. False without a policy. */
static __always_inline bool judge_recent(__u32 generation, __u32 protocol, const struct destination *dst,
					 struct judgement *judgement)
{
	__u32 index = recent_index(protocol, dst);
	struct recent *recent = bpf_map_lookup_elem(&bpfacq_recent, &index);

	if (!recent)
		return false;
	if (recent->judgement.generation == generation && recent->port == dst->port &&
	    recent->protocol == protocol && is_same(recent->addr, dst->addr)) {
		*judgement = recent->judgement;
		return true;
	}
	judge(generation, protocol, dst, judgement);
	if (judgement->is_synthetic)
		return true; /* names come and go without a generation */
	__builtin_memcpy(recent->addr, dst->addr, sizeof(recent->addr));
	recent->port = dst->port;
	recent->protocol = protocol;
	recent->judgement = *judgement;
	return true;
}

/*
 * The way that packets go by a judgement: the counter of that way. served says
 * that an agent is alive and has an enclave for them.
 */
static __always_inline enum counter judged_way(const struct judgement *judgement, __u32 protocol, bool served)
{
	switch (judgement->ruling) {
	case RULING_TUNNEL:
		break;
	case RULING_AGENT:
		return served ? COUNTER_PACKET_ACQUIRE : COUNTER_PACKET_BLOCK;
	case RULING_REFUSE:
		return served ? COUNTER_PACKET_REFUSE : COUNTER_PACKET_BLOCK;
	case RULING_REJECT:
		if (served)
			return COUNTER_PACKET_REFUSE;
		break;
	default:
		return judgement->why;
	}
	if (served &&
	    (protocol != IPPROTO_UDP || carries_datagrams(judgement->generation % SLOTS, judgement->channel)))
		return COUNTER_PACKET_ACQUIRE;
	if (judgement->hardening != HARDENING_BYPASS)
		return served ? COUNTER_PACKET_REFUSE : COUNTER_PACKET_BLOCK;
	if (!judgement->is_synthetic)
		return COUNTER_PACKET_HARDENED;
	/* The agent knows the original address, and sends it there. */
	return served ? COUNTER_PACKET_ACQUIRE : COUNTER_PACKET_BLOCK;
}

#endif
