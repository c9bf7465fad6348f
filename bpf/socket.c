//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The socket path: TCP of the agent's own network namespace.
 *
 *   connect4/6      decide once per connect(), remember, rewrite to the listener
 *   sockops         hand the record from the client's socket to the accepted one
 *   getpeername4/6  answer the original destination to the application
 *   getsockopt      answer SO_ORIGINAL_DST to the relay
 */

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/socket.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "handoff.h"
#include "policy.h"

#define SOCK_STREAM 1
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h, and the same number for IPv6 */
#define SOCKOPT_MAX 4096   /* above it a getsockopt program sees only a part */

enum verdict {
	VERDICT_NONE,
	VERDICT_PASS,
	VERDICT_ACQUIRE,
	VERDICT_BLOCK,
};

/* What a hook of type cgroup_sock_addr or cgroup_sockopt returns. */
enum answer {
	ANSWER_REFUSE,
	ANSWER_PROCEED,
};

/* Probed by the loader; the verifier removes what is off. */
volatile const bool has_set_retval; /* bpf_set_retval, 5.18 */

static __always_inline enum verdict pass(enum counter why)
{
	count(why);
	return VERDICT_PASS;
}

/* A flow that a Tunnel rule wants and that cannot be carried: the rule says what then. */
static __always_inline enum verdict harden(const struct entry *entry)
{
	if (entry->hardening == HARDENING_BYPASS)
		return pass(COUNTER_PASS_HARDENED);
	count(COUNTER_BLOCK);
	return VERDICT_BLOCK;
}

/*
 * Device- and source-bound sockets cannot reach a loopback listener, or not as
 * their owner meant it. A socket that is bound to a port alone can.
 */
static __always_inline bool is_bound(const struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return false;
	if (sk->bound_dev_if)
		return true;
	if (sk->family == AF_INET)
		return sk->src_ip4 != 0;
	/* ::ffff:0.0.0.0 is a wildcard too. */
	if (!sk->src_ip6[0] && !sk->src_ip6[1] && sk->src_ip6[2] == bpf_htonl(0xffff))
		return sk->src_ip6[3] != 0;
	return sk->src_ip6[0] || sk->src_ip6[1] || sk->src_ip6[2] || sk->src_ip6[3];
}

static __always_inline bool remember(struct bpf_sock_addr *ctx, const struct destination *dst,
				     const struct entry *entry, __u32 generation, __u64 netns_cookie)
{
	struct record *record = bpf_sk_storage_get(&bpfacq_client, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!record)
		return false;
	__builtin_memcpy(record->orig_addr, dst->addr, sizeof(record->orig_addr));
	record->orig_port = dst->port;
	record->rule = entry->rule;
	record->generation = generation;
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->uid = bpf_get_current_uid_gid();
	record->cookie = bpf_get_socket_cookie(ctx);
	record->netns_cookie = netns_cookie;
	record->since = bpf_ktime_get_ns();
	return true;
}

/* Who is left alone before any rule is read, or VERDICT_NONE. */
static __always_inline enum verdict exempt(struct bpf_sock_addr *ctx, const struct agent *agent, __u64 netns_cookie)
{
	struct stamp *stamp = bpf_sk_storage_get(&bpfacq_exempt, ctx->sk, NULL, 0);

	if (stamp)
		stamp->netns_cookie = netns_cookie;
	if (ctx->protocol != IPPROTO_TCP)
		return VERDICT_PASS;
	if (stamp)
		return pass(COUNTER_PASS_EXEMPT);
	if (!agent->netns_cookie)
		return pass(COUNTER_PASS_INACTIVE);
	if (netns_cookie != agent->netns_cookie)
		return pass(COUNTER_PASS_FOREIGN);
	if (is_bound(ctx))
		return pass(COUNTER_PASS_BOUND);
	return VERDICT_NONE;
}

/*
 * The lease is read before the port. An agent that announces itself ends the
 * lease of its predecessor, writes its ports and then grants its own: whoever
 * sees that one sees those ports.
 */
static __always_inline bool is_served(const struct agent *agent, const __be16 *listener)
{
	return bpf_ktime_get_ns() <= *(volatile __u64 *)&agent->lease_until && *(volatile __be16 *)listener;
}

/*
 * The whole decision for one connect(). listener is where the port stands that
 * would carry the flow; the record of an acquired flow is in place when this
 * returns.
 */
static __always_inline enum verdict decide(struct bpf_sock_addr *ctx, const struct destination *dst,
					   const struct agent *agent, const __be16 *listener)
{
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);
	enum verdict verdict = exempt(ctx, agent, netns_cookie);

	if (verdict != VERDICT_NONE)
		return verdict;

	__u32 generation = policy_generation();
	if (!generation)
		return pass(COUNTER_PASS_INACTIVE);

	enum counter why;
	const struct entry *entry = policy_match_tcp(generation, dst, &why);
	if (!entry)
		return pass(why);
	if (entry->action == ACTION_PROTECT)
		return pass(COUNTER_PASS_PROTECTED);
	if (entry->action != ACTION_TUNNEL)
		return pass(COUNTER_PASS_BYPASS);

	if (!is_served(agent, listener))
		return harden(entry);
	if (!remember(ctx, dst, entry, generation, netns_cookie)) {
		count(COUNTER_BUG_CLIENT_STORAGE);
		return harden(entry);
	}
	count(COUNTER_ACQUIRE);
	return VERDICT_ACQUIRE;
}

/* A socket that is used again must not keep the destination of its last flow. */
static __always_inline enum answer answer(struct bpf_sock_addr *ctx, enum verdict verdict)
{
	if (verdict == VERDICT_ACQUIRE)
		return ANSWER_PROCEED;
	bpf_sk_storage_delete(&bpfacq_client, ctx->sk);
	if (verdict != VERDICT_BLOCK)
		return ANSWER_PROCEED;
	if (has_set_retval)
		bpf_set_retval(-ECONNREFUSED); /* without it the kernel says EPERM */
	return ANSWER_REFUSE;
}

SEC("cgroup/connect4")
int bpfacq_connect4(struct bpf_sock_addr *ctx)
{
	const struct agent *agent = agent_state();
	struct destination dst = { .port = ctx->user_port };

	if (!agent || !ctx->sk)
		return ANSWER_PROCEED;
	map4(dst.addr, ctx->user_ip4);

	enum verdict verdict = decide(ctx, &dst, agent, &agent->port4);
	if (verdict == VERDICT_ACQUIRE) {
		ctx->user_ip4 = bpf_htonl(INADDR_LOOPBACK);
		ctx->user_port = agent->port4;
	}
	return answer(ctx, verdict);
}

SEC("cgroup/connect6")
int bpfacq_connect6(struct bpf_sock_addr *ctx)
{
	const struct agent *agent = agent_state();
	struct destination dst = { .port = ctx->user_port };
	__u32 *word = (__u32 *)dst.addr;

	if (!agent || !ctx->sk)
		return ANSWER_PROCEED;
	word[0] = ctx->user_ip6[0];
	word[1] = ctx->user_ip6[1];
	word[2] = ctx->user_ip6[2];
	word[3] = ctx->user_ip6[3];

	/* IPv4 destinations, and hosts whose loopback has no ::1, reach the IPv4 listener. */
	bool via4 = is_mapped4(dst.addr) || !agent->port6;
	const __be16 *listener = via4 ? &agent->port4 : &agent->port6;
	enum verdict verdict = decide(ctx, &dst, agent, listener);
	if (verdict == VERDICT_ACQUIRE) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = via4 ? bpf_htonl(0xffff) : 0;
		ctx->user_ip6[3] = via4 ? bpf_htonl(INADDR_LOOPBACK) : bpf_htonl(1);
		ctx->user_port = *listener;
	}
	return answer(ctx, verdict);
}

SEC("sockops")
int bpfacq_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		handoff_offer(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		handoff_take(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			handoff_withdraw(ctx);
		break;
	}
	return 1;
}

SEC("cgroup/getpeername4")
int bpfacq_getpeer4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct record *record = sk ? bpf_sk_storage_get(&bpfacq_client, sk, NULL, 0) : NULL;

	if (record && is_mapped4(record->orig_addr)) {
		ctx->user_ip4 = *(__be32 *)(record->orig_addr + 12);
		ctx->user_port = record->orig_port;
	}
	return ANSWER_PROCEED;
}

SEC("cgroup/getpeername6")
int bpfacq_getpeer6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct record *record = sk ? bpf_sk_storage_get(&bpfacq_client, sk, NULL, 0) : NULL;

	if (record) {
		const __u32 *word = (const __u32 *)record->orig_addr;

		ctx->user_ip6[0] = word[0];
		ctx->user_ip6[1] = word[1];
		ctx->user_ip6[2] = word[2];
		ctx->user_ip6[3] = word[3];
		ctx->user_port = record->orig_port;
	}
	return ANSWER_PROCEED;
}

static __always_inline bool original_dst4(struct bpf_sockopt *ctx, const struct record *record)
{
	struct sockaddr_in *answer = ctx->optval;

	if (!is_mapped4(record->orig_addr) || (void *)(answer + 1) > ctx->optval_end)
		return false;
	*answer = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = record->orig_port,
		.sin_addr.s_addr = *(__be32 *)(record->orig_addr + 12),
	};
	return true;
}

static __always_inline bool original_dst6(struct bpf_sockopt *ctx, const struct record *record)
{
	struct sockaddr_in6 *answer = ctx->optval;

	if ((void *)(answer + 1) > ctx->optval_end)
		return false;
	*answer = (struct sockaddr_in6){
		.sin6_family = AF_INET6,
		.sin6_port = record->orig_port,
	};
	__builtin_memcpy(&answer->sin6_addr, record->orig_addr, sizeof(answer->sin6_addr));
	return true;
}

/*
 * Attached to the relay's cgroup alone: on the root it would tax every
 * getsockopt() of the host. Other options go through as the kernel answered.
 */
SEC("cgroup/getsockopt")
int bpfacq_origdst(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	int level = ctx->level;

	if (ctx->optlen > SOCKOPT_MAX)
		ctx->optlen = 0; /* keeps the kernel's own answer */
	if (ctx->optname != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) || !sk)
		return ANSWER_PROCEED;
	struct record *record = bpf_sk_storage_get(&bpfacq_accept, sk, NULL, 0);
	if (!record)
		return ANSWER_PROCEED;

	bool answered = level == SOL_IP ? original_dst4(ctx, record) : original_dst6(ctx, record);
	if (answered) {
		/* Two 4-byte stores: clang would merge them into one that the verifier refuses. */
		*(volatile __s32 *)&ctx->optlen =
			level == SOL_IP ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
		*(volatile __s32 *)&ctx->retval = 0;
	}
	return ANSWER_PROCEED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
