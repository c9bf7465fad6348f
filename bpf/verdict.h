// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_VERDICT_H
#define BPFACQ_VERDICT_H

/* What becomes of a flow: of a TCP connect(), and of UDP where it is decided about. */

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "judge.h"
#include "peer.h"
#include "policy.h"
#include "query.h"
#include "tag.h"

enum verdict {
	VERDICT_NONE,
	VERDICT_PASS,
	VERDICT_ACQUIRE, /* to where the agent listens */
	VERDICT_DIRECT,	 /* to the original address of a name */
	VERDICT_BLOCK,
};

static __always_inline enum verdict pass(enum counter why)
{
	count(why);
	return VERDICT_PASS;
}

static __always_inline enum verdict block(enum counter why)
{
	count(why);
	return VERDICT_BLOCK;
}

/*
 * Lets a flow go direct. A synthetic address never gets to the network: the
 * original one takes its place, and without one the flow is refused.
 */
static __always_inline enum verdict leave(const struct agent *agent, const struct name *name, struct destination *dst,
					  enum counter why)
{
	if (!name)
		return pass(why);
	if (!has_original(agent, name))
		return block(COUNTER_BLOCK_ORIGINAL);
	__builtin_memcpy(dst->addr, name->orig_addr, sizeof(dst->addr));
	count(why == COUNTER_PASS_HARDENED || why == COUNTER_BUG_POLICY_TORN ? why : COUNTER_PASS_ORIGINAL);
	return VERDICT_DIRECT;
}

/* A flow that a Tunnel rule wants and that cannot be carried: the rule says what then. */
static __always_inline enum verdict harden(const struct agent *agent, const struct name *name, struct destination *dst,
					   const struct entry *entry)
{
	if (entry->hardening == HARDENING_BYPASS)
		return leave(agent, name, dst, COUNTER_PASS_HARDENED);
	return block(COUNTER_BLOCK);
}

/* Remembers where a TCP connect() goes, and what its application was told; NULL without memory. */
static __always_inline struct record *remember(struct bpf_sock_addr *ctx, const __u8 told[16],
					       const struct destination *dst, enum kind kind)
{
	struct record *record = bpf_sk_storage_get(&bpfacq_client, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!record) {
		count(COUNTER_BUG_CLIENT_STORAGE);
		return NULL;
	}
	__builtin_memcpy(record->orig_addr, dst->addr, sizeof(record->orig_addr));
	__builtin_memcpy(record->told_addr, told, sizeof(record->told_addr));
	record->orig_port = dst->port;
	record->kind = kind;
	record->course = COURSE_PASS;
	record->rule = 0;
	record->generation = 0;
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->uid = bpf_get_current_uid_gid();
	record->mark = ctx->sk->mark;
	record->cookie = bpf_get_socket_cookie(ctx);
	record->netns_cookie = bpf_get_netns_cookie(ctx);
	record->since = bpf_ktime_get_ns();
	return record;
}

/* Who is left alone before any rule is read, or VERDICT_NONE. */
static __always_inline enum verdict exempt(struct bpf_sock_addr *ctx, const struct agent *agent)
{
	if (bpf_sk_storage_get(&bpfacq_exempt, ctx->sk, NULL, 0))
		return pass(COUNTER_PASS_EXEMPT);
	if (!agent->netns_cookie)
		return pass(COUNTER_PASS_INACTIVE);
	if (bpf_get_netns_cookie(ctx) != agent->netns_cookie) {
		if (agent->packets)
			tag_foreign(ctx->sk);
		return pass(COUNTER_PASS_FOREIGN);
	}
	return VERDICT_NONE;
}

/*
 * Device- and source-bound sockets cannot reach a loopback listener, or not as
 * their owner meant it. A socket that is bound to a port alone can.
 */
static __always_inline bool is_bound(const struct bpf_sock *sk)
{
	__u8 source[16];

	return sk->bound_dev_if || source_address(sk, source);
}

/*
 * A Tunnel rule's flow that the socket path cannot carry. The packet path takes it
 * at the uplink; here it is refused where it would be dropped there, and sent to the
 * original address where that is what remains.
 */
static __always_inline enum verdict defer(const struct agent *agent, const struct name *name, struct destination *dst,
					  const struct entry *entry, __u32 slot, __u32 protocol)
{
	bool served = is_lease_fresh(agent);

	if (!name) {
		if (!served && entry->hardening != HARDENING_BYPASS)
			return block(COUNTER_BLOCK);
		return protocol == IPPROTO_TCP ? pass(COUNTER_PASS_BOUND) : VERDICT_PASS;
	}
	if (served && (protocol == IPPROTO_TCP || carries_datagrams(slot, entry->channel)))
		return pass(COUNTER_PASS_PACKETS);
	return harden(agent, name, dst, entry);
}

/*
 * What the policy says of a flow to dst. listener is where the port stands that
 * would carry it, NULL for UDP. What the socket path cannot carry is decided
 * about where it goes to a synthetic address, or the packet path is there to
 * take it. The record of an acquired flow is in place when this returns; of
 * VERDICT_DIRECT dst has become the original address, and course says what the
 * packet path makes of that.
 */
static __always_inline enum verdict decide(struct bpf_sock_addr *ctx, struct destination *dst,
					   const struct agent *agent, const __be16 *listener, __u32 *course)
{
	__u32 protocol = listener ? IPPROTO_TCP : IPPROTO_UDP;
	__u32 generation = policy_generation(), slot = generation % SLOTS;
	bool carries = listener && !is_bound(ctx->sk);
	struct destination told = *dst;

	*course = COURSE_PASS;
	if (!generation)
		return pass(COUNTER_PASS_INACTIVE);
	struct match match = policy_match(slot, protocol, dst);
	const struct name *name = NULL;
	if (match.entry && match.entry->action == ACTION_SYNTHETIC) {
		name = policy_name(slot, dst->addr);
		if (!name)
			return block(COUNTER_BLOCK_UNKNOWN);
		match = policy_match_row(slot, name->row, protocol, dst->port);
		/* A port that no rule of the name covers: an ordinary flow to the original address. */
		if (match.why == COUNTER_PASS_UNMATCHED) {
			*course = COURSE_RULES;
			if (!carries || !name->has_orig)
				return leave(agent, name, dst, COUNTER_PASS_ORIGINAL);
			__builtin_memcpy(dst->addr, name->orig_addr, sizeof(dst->addr));
			match = policy_match(slot, protocol, dst);
		}
	} else if (!carries && !agent->packets) {
		return listener ? pass(COUNTER_PASS_BOUND) : VERDICT_PASS;
	}

	const struct entry *entry = match.entry;
	if (!entry)
		return leave(agent, name, dst, match.why);
	if (entry->action == ACTION_PROTECT)
		return leave(agent, name, dst, COUNTER_PASS_PROTECTED);
	if (entry->action == ACTION_REJECT && name && agent->packets)
		return is_lease_fresh(agent) ? pass(COUNTER_PASS_PACKETS) : harden(agent, name, dst, entry);
	if (entry->action != ACTION_TUNNEL)
		return leave(agent, name, dst, COUNTER_PASS_BYPASS);

	if (!carries && agent->packets)
		return defer(agent, name, dst, entry, slot, protocol);
	if (!carries || !served_port(agent, listener))
		return harden(agent, name, dst, entry);
	struct record *record = remember(ctx, told.addr, dst, KIND_FLOW);
	if (!record)
		return harden(agent, name, dst, entry);
	record->rule = entry->rule;
	record->generation = generation;
	count(COUNTER_ACQUIRE);
	return VERDICT_ACQUIRE;
}

/* A TCP connect(). Where it is moved, dst becomes where to. */
static __always_inline enum verdict connect_tcp(struct bpf_sock_addr *ctx, struct destination *dst,
						const struct agent *agent)
{
	/* IPv4 destinations, and hosts whose loopback has no ::1, reach the IPv4 listener. */
	bool is4 = is_mapped4(dst->addr) || !agent->port6;
	const __be16 *listener = is4 ? &agent->port4 : &agent->port6;
	struct destination told = *dst;
	enum verdict verdict = exempt(ctx, agent);
	__u32 course = COURSE_PASS;

	if (verdict == VERDICT_NONE && agent->packets && is_bound(ctx->sk))
		tag_owner(ctx->sk);
	if (verdict == VERDICT_NONE && is_query(dst) && (agent->dns4 || agent->dns6) && !is_bound(ctx->sk) &&
	    !is_link_local6(dst->addr) && served_port(agent, listener) && is_awaited(ctx, agent) &&
	    remember(ctx, told.addr, dst, KIND_QUERY)) {
		count(COUNTER_ACQUIRE_QUERY);
		verdict = VERDICT_ACQUIRE;
	}
	if (verdict == VERDICT_NONE)
		verdict = decide(ctx, dst, agent, listener, &course);

	if (verdict == VERDICT_ACQUIRE) {
		loopback(dst->addr, is4);
		dst->port = *listener;
		return verdict;
	}
	struct record *record = verdict == VERDICT_DIRECT ? remember(ctx, told.addr, dst, KIND_DIRECT) : NULL;
	if (record)
		record->course = course;
	else /* a socket that is used again must not keep the destination of its last flow */
		bpf_sk_storage_delete(&bpfacq_client, ctx->sk);
	return verdict;
}

/*
 * UDP that goes neither to port 53 nor to a synthetic address. The packet path
 * decides about it, and is told whose it is. While no agent is alive, what it would
 * drop is refused here, where the application hears of it, but for what may be an
 * answer of a server.
 */
static __always_inline enum verdict send_packets(struct bpf_sock_addr *ctx, struct destination *dst,
						 const struct agent *agent, bool connects)
{
	struct bpf_sock *sk = ctx->sk;

	if (bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0))
		return VERDICT_PASS;
	if (bpf_get_netns_cookie(ctx) != agent->netns_cookie) {
		tag_foreign(sk);
		return VERDICT_PASS;
	}
	const struct tag *tag = tag_owner(sk);
	if (is_lease_fresh(agent) || (!connects && tag && tag->is_server))
		return VERDICT_PASS;
	const struct entry *entry = policy_match(policy_generation() % SLOTS, IPPROTO_UDP, dst).entry;
	if (entry && entry->action == ACTION_TUNNEL && entry->hardening != HARDENING_BYPASS)
		return block(COUNTER_BLOCK);
	return VERDICT_PASS;
}

/*
 * A UDP connect() or sendmsg(). Without a packet path whatever goes neither to port
 * 53 nor to a synthetic address is left alone here, in a few instructions. Where it is
 * moved, dst becomes where to; the socket's peers have it both ways.
 */
static __always_inline enum verdict send_udp(struct bpf_sock_addr *ctx, struct destination *dst,
					     const struct agent *agent, bool connects)
{
	bool query = is_query(dst), pooled = is_in_pool(agent, dst->addr);
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return VERDICT_PASS;
	if (!query && !pooled)
		return agent->packets ? send_packets(ctx, dst, agent, connects) : VERDICT_PASS;
	enum verdict verdict = exempt(ctx, agent);
	if (verdict != VERDICT_NONE)
		return verdict;
	if (agent->packets)
		tag_owner(sk);

	struct peer want = {
		.told_port = dst->port,
		.ifindex = sk->bound_dev_if,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.uid = bpf_get_current_uid_gid(),
		.mark = sk->mark,
	};
	__builtin_memcpy(want.told_addr, dst->addr, sizeof(want.told_addr));

	__u16 step = 0;
	enum counter why = COUNTER_PASS_UNSERVED;
	if (query && is_awaited(ctx, agent))
		why = query_aim(sk, &want, agent, dst, &step);
	verdict = VERDICT_ACQUIRE;
	if (why != COUNTER_ACQUIRE_QUERY) {
		if (!pooled)
			return pass(why);
		verdict = decide(ctx, dst, agent, NULL, &want.course);
		if (verdict != VERDICT_DIRECT)
			return verdict;
	}

	struct peers *peers = bpf_sk_storage_get(&bpfacq_peer, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!peers)
		return pooled ? block(COUNTER_BUG_PEER_STORAGE) : pass(COUNTER_BUG_PEER_STORAGE);
	__builtin_memcpy(want.seen_addr, dst->addr, sizeof(want.seen_addr));
	__u32 place = peer_claim(peers, &want, bpf_ntohs(dst->port), step);
	if (place == PEERS)
		return pooled ? block(COUNTER_BLOCK_CROWDED) : pass(COUNTER_PASS_CROWDED);
	dst->port = bpf_htons(bpf_ntohs(dst->port) + step * place);
	if (verdict == VERDICT_DIRECT)
		return verdict;
	if (connects && query_is_shared(ctx, sk, peers, dst))
		return pooled ? block(COUNTER_BLOCK_CROWDED) : pass(COUNTER_PASS_CROWDED);
	count(COUNTER_ACQUIRE_QUERY);
	return verdict;
}

#endif
