// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_PEER_H
#define BPFACQ_PEER_H

/*
 * The peers of a UDP socket that its datagrams do not go to: DNS servers, whose
 * queries go to the agent, and synthetic addresses, which go to the original
 * ones. The application is told that it speaks with the one, and the network sees
 * the other.
 */

#include "address.h"
#include "counter.h"
#include "flow.h"

#define PEERS DNS_PORTS
#define PEER_KEPT 10000000000ULL /* nanoseconds for which an unused place is not given away */

struct peer {
	__u8 told_addr[16];
	__u8 seen_addr[16];
	__be16 told_port;
	__be16 seen_port;
	__u32 ifindex; /* of the device that the socket was bound to, 0 is none */
	__u32 pid;     /* thread group of the task that sent last */
	__u32 uid;
	__u32 mark;   /* SO_MARK of the socket */
	__u32 course; /* enum course, where the seen address is an original one */
	__u64 until;  /* CLOCK_MONOTONIC, nanoseconds: kept so long; 0 was never used */
};

/* Threads share sockets, and hooks of one socket run at the same time. */
struct peers {
	struct bpf_spin_lock lock;
	__u32 _pad;
	struct peer peer[PEERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peers);
} bpfacq_peer SEC(".maps");

/*
 * Numbers instead of branches: 1 where it is so, and 0 where not. The verifier
 * follows both ways of a branch, eight times in a row.
 */
static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	__u64 less = (a - b) >> 63; /* both are times */

	barrier_var(less);
	return less;
}

static __always_inline __u64 is_different(const __u8 a[16], const __u8 b[16], __u64 rest)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
	__u64 bits = (x[0] ^ y[0]) | (x[1] ^ y[1]) | rest, different = (bits | -bits) >> 63;

	barrier_var(different);
	return different;
}

/*
 * Finds the place of the peer that want tells, or the next free one, or that of
 * the longest unused; fills it with want, as seen at the place-th port from
 * seen_port (host byte order) with step 1, at seen_port itself with step 0. The
 * answer is the place, or PEERS where all were used just now: what is on the way to
 * a peer still needs its place.
 */
static __always_inline __u32 peer_claim(struct peers *peers, const struct peer *want, __u16 seen_port, __u16 step)
{
	__u64 now = bpf_ktime_get_ns(), least = now + 1, place = PEERS;

	bpf_spin_lock(&peers->lock);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PEERS; i++) {
		const struct peer *peer = &peers->peer[i];
		__u64 rest = (peer->told_port ^ want->told_port) | (peer->ifindex ^ want->ifindex);
		/* 0 is the peer itself, 1 was never used, more the longer it is kept. */
		__u64 rank = (peer->until + 1) * is_different(peer->told_addr, want->told_addr, rest);
		__u64 better = is_less(rank, least);

		least += (rank - least) * better;
		place += (i - place) * better;
	}
	if (place < PEERS) {
		struct peer *peer = &peers->peer[place];

		*peer = *want;
		peer->seen_port = bpf_htons(seen_port + step * place);
		peer->until = now + PEER_KEPT;
	}
	bpf_spin_unlock(&peers->lock);
	return place;
}

/* The peer that is seen at an address and port, into found. Of several the last used. */
static __always_inline bool peer_find(struct peers *peers, const struct destination *seen, struct peer *found)
{
	__u64 latest = 0, place = PEERS;

	bpf_spin_lock(&peers->lock);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PEERS; i++) {
		const struct peer *peer = &peers->peer[i];
		__u64 rank = peer->until * (1 - is_different(peer->seen_addr, seen->addr, peer->seen_port ^ seen->port));
		__u64 better = is_less(latest, rank);

		latest += (rank - latest) * better;
		place += (i - place) * better;
	}
	if (place < PEERS)
		*found = peers->peer[place];
	bpf_spin_unlock(&peers->lock);
	return place < PEERS;
}

/* Answers with what the application named, in recvmsg and getpeername. */
static __always_inline bool peer_told(struct bpf_sock *sk, struct destination *dst)
{
	struct peers *peers = bpf_sk_storage_get(&bpfacq_peer, sk, NULL, 0);
	struct peer found;

	if (!peers || !peer_find(peers, dst, &found))
		return false;
	__builtin_memcpy(dst->addr, found.told_addr, sizeof(dst->addr));
	dst->port = found.told_port;
	return true;
}

#endif
