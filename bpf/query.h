// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_QUERY_H
#define BPFACQ_QUERY_H

/*
 * DNS queries over UDP, from the socket that sends them to the agent's socket
 * that receives them. The agent's port tells the place among the peers of the
 * socket; the rest is read from that socket when the query is received.
 *
 * A socket that is bound to a device, or was until just after its connect(), does
 * not reach 127.0.0.1 but does reach the device's own address, which loopback
 * delivers. While it is bound nobody finds it: so its place is one among the
 * peers of all sockets that are bound to that device.
 */

#include "address.h"
#include "counter.h"
#include "flow.h"
#include "peer.h"

/* The addresses by which sockets bound to a device reach this host; zeros are none. */
struct device {
	__u8 addr4[16]; /* IPv4-mapped */
	__u8 addr6[16];
};

/* What is known of the query that an agent's socket received last. */
struct query {
	__u8 server[16];
	__be16 server_port;
	__u8 has_asker;
	__u8 _pad;
	__u32 ifindex;
	__u32 pid;
	__u32 uid;
	__u32 mark;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct device);
} bpfacq_device SEC(".maps");

/* The peers of all sockets that are bound to a device, by the device's own address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u8[16]);
	__type(value, struct peers);
} bpfacq_server SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct query);
} bpfacq_query SEC(".maps");

static __always_inline bool is_query(const struct destination *dst)
{
	return dst->port == bpf_htons(DNS_PORT) && is_remote(dst->addr);
}

/*
 * Whether the agent's first socket for queries is open. It closes as soon as the
 * agent dies, whose lease goes on for seconds in which no name would be resolved.
 */
static __always_inline bool is_awaited(struct bpf_sock_addr *ctx, const struct agent *agent)
{
	struct bpf_sock_tuple tuple = {};

	tuple.ipv4.daddr = bpf_htonl(INADDR_LOOPBACK);
	tuple.ipv4.dport = bpf_htons(agent->dns4);
	struct bpf_sock *sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	bool stamped = bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0);
	bpf_sk_release(sk);
	return stamped;
}

/*
 * Aims a query at the agent: dst becomes where the first of its sockets is found,
 * and step the distance to the next. Where the place among the peers of a device
 * says which it is, dst is that one and step 0. The answer is
 * COUNTER_ACQUIRE_QUERY, or why the query is to be left alone.
 */
static __always_inline enum counter query_aim(struct bpf_sock *sk, const struct peer *want, const struct agent *agent,
					      struct destination *dst, __u16 *step)
{
	bool is4 = is_mapped4(dst->addr);
	__u16 first = served_port(agent, is4 ? &agent->dns4 : &agent->dns6);

	if (!first)
		return COUNTER_PASS_UNSERVED;
	if (sk->src_port == DNS_PORT)
		return COUNTER_PASS_SERVER;
	if (!want->ifindex) {
		if (is_link_local6(dst->addr))
			return COUNTER_PASS_SCOPE;
		loopback(dst->addr, is4);
		dst->port = bpf_htons(first);
		*step = 1;
		return COUNTER_ACQUIRE_QUERY;
	}

	const struct device *device = bpf_map_lookup_elem(&bpfacq_device, &want->ifindex);
	__u8 own[16], source[16];
	if (!device)
		return COUNTER_PASS_DEVICE;
	__builtin_memcpy(own, is4 ? device->addr4 : device->addr6, sizeof(own));
	/* The agent finds the table by the source of what it receives: by the same address. */
	if (source_address(sk, source) && !is_same(source, own))
		return COUNTER_PASS_DEVICE;
	struct peers *servers = bpf_map_lookup_elem(&bpfacq_server, own);
	if (!servers)
		return COUNTER_PASS_DEVICE;
	struct peer server = *want;
	__builtin_memcpy(server.seen_addr, own, sizeof(server.seen_addr));
	__u32 place = peer_claim(servers, &server, first, 1);
	if (place == PEERS)
		return COUNTER_PASS_CROWDED;
	__builtin_memcpy(dst->addr, own, sizeof(dst->addr));
	dst->port = bpf_htons(first + place);
	return COUNTER_ACQUIRE_QUERY;
}

/* The socket of this host that sends from one address and port to another, to be released, or NULL. */
static __always_inline struct bpf_sock *sender_of(struct bpf_sock_addr *ctx, const struct destination *from,
						  const struct destination *to)
{
	struct bpf_sock_tuple tuple = {};

	if (is_mapped4(from->addr)) {
		tuple.ipv4.saddr = *(const __be32 *)(to->addr + 12);
		tuple.ipv4.daddr = *(const __be32 *)(from->addr + 12);
		tuple.ipv4.sport = to->port;
		tuple.ipv4.dport = from->port;
		return bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(tuple.ipv6.saddr, to->addr, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, from->addr, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = to->port;
	tuple.ipv6.dport = from->port;
	return bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/*
 * Whether another socket that shares the source port is connected to the same
 * socket of the agent, by way of another server. Nobody could tell them apart.
 */
static __always_inline bool query_is_shared(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct peers *peers,
					    const struct destination *to)
{
	struct destination from = { .port = bpf_htons(sk->src_port) };

	if (!from.port)
		return false;
	if (!source_address(sk, from.addr))
		loopback(from.addr, is_mapped4(to->addr));
	struct bpf_sock *other = sender_of(ctx, &from, to);
	if (!other)
		return false;
	bool shared = other->dst_port && bpf_sk_storage_get(&bpfacq_peer, other, NULL, 0) != peers;
	bpf_sk_release(other);
	return shared;
}

/* The peer by which a socket of this host sends from one address and port to another. */
static __always_inline bool query_sender(struct bpf_sock_addr *ctx, const struct destination *from,
					 const struct destination *to, struct peer *found)
{
	struct bpf_sock *sender = sender_of(ctx, from, to);

	if (!sender)
		return false;
	struct peers *peers = bpf_sk_storage_get(&bpfacq_peer, sender, NULL, 0);
	bool known = peers && peer_find(peers, to, found);
	bpf_sk_release(sender);
	return known;
}

/*
 * An agent's socket received a datagram from an address and port: leaves what is
 * known of it in that socket's storage, for the agent to read before it receives
 * the next.
 */
static __always_inline void query_arrive(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct agent *agent,
					 const struct destination *from)
{
	bool is4 = is_mapped4(from->addr);
	__u32 place = (sk->src_port - (is4 ? agent->dns4 : agent->dns6)) & 0xffff;
	struct destination to = { .port = bpf_htons(sk->src_port) };
	struct peer peer = {};

	if (place >= DNS_PORTS || !bpf_sk_storage_get(&bpfacq_exempt, sk, NULL, 0))
		return;
	loopback(to.addr, is4);
	bool known = query_sender(ctx, from, &to, &peer);
	if (!known) { /* by way of a device: from its own address to the same */
		__builtin_memcpy(to.addr, from->addr, sizeof(to.addr));
		known = query_sender(ctx, from, &to, &peer);
	}
	bool has_asker = known;
	if (!known) {
		struct peers *servers = bpf_map_lookup_elem(&bpfacq_server, from->addr);
		known = servers && peer_find(servers, &to, &peer);
	}
	if (!known) {
		count(COUNTER_QUERY_MISSED);
		bpf_sk_storage_delete(&bpfacq_query, sk);
		return;
	}

	struct query *query = bpf_sk_storage_get(&bpfacq_query, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!query) {
		count(COUNTER_BUG_QUERY_STORAGE);
		return;
	}
	count(has_asker ? COUNTER_QUERY_KNOWN : COUNTER_QUERY_ASKERLESS);
	__builtin_memcpy(query->server, peer.told_addr, sizeof(query->server));
	query->server_port = peer.told_port;
	query->has_asker = has_asker;
	query->ifindex = peer.ifindex;
	query->pid = has_asker ? peer.pid : 0;
	query->uid = has_asker ? peer.uid : 0;
	query->mark = has_asker ? peer.mark : 0;
}

#endif
