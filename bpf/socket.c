//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The socket path: TCP of the agent's own network namespace, and its DNS queries.
 *
 *   connect4/6      decide once per connect(), remember, rewrite to the listener
 *   sendmsg4/6      the same for the datagrams of sockets that are not connected
 *   sockops         hand the record from the client's socket to the accepted one
 *   getpeername4/6  answer the original destination to the application
 *   recvmsg4/6      the same for datagrams; tell the agent who sent a query
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
#include "tag.h"
#include "uplink.h"
#include "verdict.h"

#define SOCK_STREAM 1
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h, and the same number for IPv6 */
#define SOCKOPT_MAX 4096   /* above it a getsockopt program sees only a part */

/* What a hook of type cgroup_sock_addr or cgroup_sockopt returns. */
enum answer {
	ANSWER_REFUSE,
	ANSWER_PROCEED,
};

/* Probed by the loader; the verifier removes what is off. */
volatile const bool has_set_retval; /* bpf_set_retval, 5.18 */

static __always_inline void read4(const struct bpf_sock_addr *ctx, struct destination *dst)
{
	map4(dst->addr, ctx->user_ip4);
	dst->port = ctx->user_port;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct destination *dst)
{
	ctx->user_ip4 = *(const __be32 *)(dst->addr + 12);
	ctx->user_port = dst->port;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, struct destination *dst)
{
	__be32 *word = (__be32 *)dst->addr;

	word[0] = ctx->user_ip6[0];
	word[1] = ctx->user_ip6[1];
	word[2] = ctx->user_ip6[2];
	word[3] = ctx->user_ip6[3];
	dst->port = ctx->user_port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct destination *dst)
{
	const __be32 *word = (const __be32 *)dst->addr;

	ctx->user_ip6[0] = word[0];
	ctx->user_ip6[1] = word[1];
	ctx->user_ip6[2] = word[2];
	ctx->user_ip6[3] = word[3];
	ctx->user_port = dst->port;
}

static __always_inline bool moves(enum verdict verdict)
{
	return verdict == VERDICT_ACQUIRE || verdict == VERDICT_DIRECT;
}

/* What connect() comes to; dst becomes where it is moved. */
static __always_inline enum verdict connect_to(struct bpf_sock_addr *ctx, struct destination *dst)
{
	const struct agent *agent = agent_state();

	if (!agent || !ctx->sk)
		return VERDICT_PASS;
	struct stamp *stamp = bpf_sk_storage_get(&bpfacq_exempt, ctx->sk, NULL, 0);
	if (stamp)
		stamp->netns_cookie = bpf_get_netns_cookie(ctx);
	if (ctx->protocol == IPPROTO_TCP)
		return connect_tcp(ctx, dst, agent);
	if (ctx->protocol != IPPROTO_UDP)
		return VERDICT_PASS;
	enum verdict verdict = send_udp(ctx, dst, agent, true);
	if (!moves(verdict))
		bpf_sk_storage_delete(&bpfacq_peer, ctx->sk);
	return verdict;
}

static __always_inline enum verdict send_to(struct bpf_sock_addr *ctx, struct destination *dst)
{
	const struct agent *agent = agent_state();

	return agent ? send_udp(ctx, dst, agent, false) : VERDICT_PASS;
}

static __always_inline enum answer answer(enum verdict verdict)
{
	if (verdict != VERDICT_BLOCK)
		return ANSWER_PROCEED;
	if (has_set_retval)
		bpf_set_retval(-ECONNREFUSED); /* without it the kernel says EPERM */
	return ANSWER_REFUSE;
}

SEC("cgroup/connect4")
int bpfacq_connect4(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read4(ctx, &dst);
	enum verdict verdict = connect_to(ctx, &dst);
	if (moves(verdict))
		write4(ctx, &dst);
	return answer(verdict);
}

SEC("cgroup/connect6")
int bpfacq_connect6(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read6(ctx, &dst);
	enum verdict verdict = connect_to(ctx, &dst);
	if (moves(verdict))
		write6(ctx, &dst);
	return answer(verdict);
}

SEC("cgroup/sendmsg4")
int bpfacq_send4(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read4(ctx, &dst);
	enum verdict verdict = send_to(ctx, &dst);
	if (moves(verdict))
		write4(ctx, &dst);
	return answer(verdict);
}

SEC("cgroup/sendmsg6")
int bpfacq_send6(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read6(ctx, &dst);
	enum verdict verdict = send_to(ctx, &dst);
	if (moves(verdict))
		write6(ctx, &dst);
	return answer(verdict);
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

/* What the application named, in the place of what the network sees. */
static __always_inline bool told(struct bpf_sock *sk, struct destination *dst)
{
	struct record *record = bpf_sk_storage_get(&bpfacq_client, sk, NULL, 0);

	if (!record)
		return peer_told(sk, dst);
	__builtin_memcpy(dst->addr, record->told_addr, sizeof(dst->addr));
	dst->port = record->orig_port;
	return true;
}

SEC("cgroup/getpeername4")
int bpfacq_getpeer4(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read4(ctx, &dst);
	if (ctx->sk && told(ctx->sk, &dst) && is_mapped4(dst.addr))
		write4(ctx, &dst);
	return ANSWER_PROCEED;
}

SEC("cgroup/getpeername6")
int bpfacq_getpeer6(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read6(ctx, &dst);
	if (ctx->sk && told(ctx->sk, &dst))
		write6(ctx, &dst);
	return ANSWER_PROCEED;
}

/* A datagram from dst was received: by an application, or as a query by the agent. */
static __always_inline bool received(struct bpf_sock_addr *ctx, struct destination *dst)
{
	const struct agent *agent = agent_state();
	struct bpf_sock *sk = ctx->sk;

	if (!sk || !agent)
		return false;
	if (peer_told(sk, dst))
		return true;
	if (agent->packets && !is_lease_fresh(agent))
		tag_server(sk);
	query_arrive(ctx, sk, agent, dst);
	return false;
}

SEC("cgroup/recvmsg4")
int bpfacq_recv4(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read4(ctx, &dst);
	if (received(ctx, &dst) && is_mapped4(dst.addr))
		write4(ctx, &dst);
	return ANSWER_PROCEED;
}

SEC("cgroup/recvmsg6")
int bpfacq_recv6(struct bpf_sock_addr *ctx)
{
	struct destination dst;

	read6(ctx, &dst);
	if (received(ctx, &dst))
		write6(ctx, &dst);
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
