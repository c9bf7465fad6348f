// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_HANDOFF_H
#define BPFACQ_HANDOFF_H

/*
 * The record of an acquired flow, on its way from the client's socket to the
 * accepted one. Both lie on this host, so sockops sees both ends of a handshake.
 */

#include "address.h"
#include "counter.h"
#include "flow.h"

/* Probed by the loader; the verifier removes what is off. */
volatile const bool has_sockops_netns_cookie; /* bpf_get_netns_cookie in sockops, 5.15 */

/*
 * The two ends of a handshake as the client has them. A client on an AF_INET6
 * socket that reaches an IPv4 listener has its IPv4 address in local_ip4 too.
 */
static __always_inline void client_key(struct bpf_sock_ops *ctx, struct handoff_key *key)
{
	if (ctx->family == AF_INET || ctx->remote_ip6[2] == bpf_htonl(0xffff)) {
		map4(key->client, ctx->local_ip4);
	} else {
		__u32 *word = (__u32 *)key->client;

		word[0] = ctx->local_ip6[0];
		word[1] = ctx->local_ip6[1];
		word[2] = ctx->local_ip6[2];
		word[3] = ctx->local_ip6[3];
	}
	key->client_port = bpf_htons(ctx->local_port);
	key->listener_port = bpf_htons(bpf_ntohl(ctx->remote_port));
}

static __always_inline void listener_key(struct bpf_sock_ops *ctx, struct handoff_key *key)
{
	if (ctx->family == AF_INET || ctx->local_ip6[2] == bpf_htonl(0xffff)) {
		map4(key->client, ctx->remote_ip4);
	} else {
		__u32 *word = (__u32 *)key->client;

		word[0] = ctx->remote_ip6[0];
		word[1] = ctx->remote_ip6[1];
		word[2] = ctx->remote_ip6[2];
		word[3] = ctx->remote_ip6[3];
	}
	key->client_port = bpf_htons(bpf_ntohl(ctx->remote_port));
	key->listener_port = bpf_htons(ctx->local_port);
}

/* The source port is chosen and the SYN has not left: leave the record for the listener. */
static __always_inline void handoff_offer(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	struct record *record = bpf_sk_storage_get(&bpfacq_client, sk, NULL, 0);
	if (!record || record->kind == KIND_DIRECT)
		return;

	struct handoff_key key = {};
	client_key(ctx, &key);
	/* Without the entry the relay meets a socket without record and resets it. */
	if (bpf_map_update_elem(&bpfacq_handoff, &key, record, BPF_ANY)) {
		count(COUNTER_BUG_HANDOFF_FULL);
		return;
	}
	count(COUNTER_HANDOFF_OFFERED);
	/* Never taken back: another program may have asked for the same callback. */
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		count(COUNTER_BUG_FLAGS);
}

/* At another address the listener's port is somebody else's. */
static __always_inline bool is_at_listener(const struct bpf_sock_ops *ctx, const struct agent *agent)
{
	__be16 port = bpf_htons(ctx->local_port);

	if (ctx->family == AF_INET || ctx->local_ip6[2] == bpf_htonl(0xffff))
		return port == agent->port4 && ctx->local_ip4 == bpf_htonl(INADDR_LOOPBACK);
	return port == agent->port6 && !ctx->local_ip6[0] && !ctx->local_ip6[1] && !ctx->local_ip6[2] &&
	       ctx->local_ip6[3] == bpf_htonl(1);
}

/* The accepted socket exists and accept() cannot have returned it: give it the record. */
static __always_inline void handoff_take(struct bpf_sock_ops *ctx)
{
	const struct agent *agent = agent_state();
	struct bpf_sock *sk = ctx->sk;

	if (!agent || !sk || !is_at_listener(ctx, agent))
		return;
	/*
	 * Where sockops cannot tell the namespace, another one's socket with the
	 * same four numbers within the same microseconds could take the record:
	 * the relay then meets a socket without one, and resets it.
	 */
	if (has_sockops_netns_cookie && bpf_get_netns_cookie(ctx) != agent->netns_cookie)
		return;

	struct handoff_key key = {};
	listener_key(ctx, &key);
	struct record *record = bpf_map_lookup_elem(&bpfacq_handoff, &key);
	if (!record) {
		count(COUNTER_HANDOFF_MISSED);
		return;
	}
	if (bpf_sk_storage_get(&bpfacq_accept, sk, record, BPF_SK_STORAGE_GET_F_CREATE))
		count(COUNTER_HANDOFF_TAKEN);
	else
		count(COUNTER_BUG_ACCEPT_STORAGE);
	bpf_map_delete_elem(&bpfacq_handoff, &key);
}

/*
 * The client is closed. Whatever state it was in, the listener may not have seen
 * the end of the handshake: a full queue or TCP_DEFER_ACCEPT lets the client
 * believe in a connection that never becomes a socket. The cookie keeps a late
 * call away from a successor's entry.
 */
static __always_inline void handoff_withdraw(struct bpf_sock_ops *ctx)
{
	struct handoff_key key = {};

	client_key(ctx, &key);
	struct record *record = bpf_map_lookup_elem(&bpfacq_handoff, &key);
	if (!record || record->cookie != bpf_get_socket_cookie(ctx))
		return;
	if (!bpf_map_delete_elem(&bpfacq_handoff, &key))
		count(COUNTER_HANDOFF_WITHDRAWN);
}

#endif
