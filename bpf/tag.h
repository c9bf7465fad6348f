// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_TAG_H
#define BPFACQ_TAG_H

/* What the packet path remembers, so that it need not decide about each packet. */

#include "address.h"
#include "counter.h"
#include "flow.h"

/* Probed by the loader; the verifier removes what is off. */
volatile const bool has_tc_netns; /* bpf_get_netns_cookie at a device, 6.15 */

/* What the policy of a generation says of packets to a destination. */
enum ruling {
	RULING_NONE,
	RULING_PASS,
	RULING_TUNNEL,
	RULING_REJECT, /* refuse while an agent is alive, then as the rule is hardened */
	RULING_AGENT,  /* a name that goes direct: the agent knows where to */
	RULING_REFUSE, /* a synthetic address of no name, or of one without original address */
};

/* A ruling and what it depends on from packet to packet. */
struct judgement {
	__u32 generation;
	__u32 channel;	   /* index in bpfacq_channel */
	__u8 ruling;	   /* enum ruling */
	__u8 hardening;	   /* enum hardening */
	__u8 is_synthetic; /* must never get to the network */
	__u8 why;	   /* enum counter, of RULING_PASS */
};

/* Which side sent the first packet of a flow. */
enum opener {
	OPENER_NONE,
	OPENER_HERE,
	OPENER_THERE,
};

/*
 * The tag of a local socket. The hooks leave in it who owns it; the egress of an
 * uplink what was decided about its last destination, or about its connection.
 * Threads share sockets, so it has a lock.
 */
struct tag {
	struct bpf_spin_lock lock;
	__u32 pid; /* thread group of the task that connected or sent first, 0 is unknown */
	__u32 uid;
	struct judgement judgement;
	__u8 addr[16];
	__be16 port;
	__be16 source_port; /* under which bpfacq_source has the socket, 0 is none */
	__u8 opener;	    /* enum opener, of the flow to that destination */
	__u8 is_foreign;    /* of another network namespace than the agent's */
	__u8 is_server;	    /* has received what it may answer, while no agent was alive */
	__u8 _pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tag);
} bpfacq_tag SEC(".maps");

/* The last judgement of one of many destinations: the one whose hash says so. */
struct recent {
	__u8 addr[16];
	__be16 port;
	__u8 protocol;
	__u8 _pad;
	struct judgement judgement;
};

#define RECENT_BITS 10

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << RECENT_BITS);
	__type(key, __u32);
	__type(value, struct recent);
} bpfacq_recent SEC(".maps");

/* A flow as the egress of an uplink has it. */
struct flow_key {
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 _pad[3];
};

struct opening {
	__u64 seen;   /* CLOCK_MONOTONIC, nanoseconds: the last packet */
	__u32 opener; /* enum opener */
	__u32 _pad;
};

/*
 * Flows of Tunnel destinations whose opener no socket tells: what a server here
 * answers goes back the way that the question came. Where a flow is forgotten
 * it is acquired: nothing leaks.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow_key);
	__type(value, struct opening);
} bpfacq_opening SEC(".maps");

struct fragment_key {
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u32 id; /* of IPv4 in its lower half */
	__u8 protocol;
	__u8 _pad[3];
};

/* What became of the first fragment of a packet: the others carry no ports. */
struct fragment {
	__u32 way; /* the counter of the way that it went */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} bpfacq_fragment SEC(".maps");

/* An address and port from which acquired packets come. */
struct source_key {
	__u8 addr[16];
	__be16 port;
	__u8 protocol;
	__u8 _pad;
};

struct source {
	__u64 cookie; /* of the socket */
	__u32 pid;    /* 0 is unknown */
	__u32 uid;
};

/* Whose acquired flows are, for people. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct source_key);
	__type(value, struct source);
} bpfacq_source SEC(".maps");

/* Tells the packet path who owns a socket. Once: the first task is the one that counts. The tag, or NULL. */
static __always_inline const struct tag *tag_owner(struct bpf_sock *sk)
{
	struct tag *tag = bpf_sk_storage_get(&bpfacq_tag, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!tag) {
		count(COUNTER_BUG_TAG_STORAGE);
		return NULL;
	}
	if (!tag->pid) {
		tag->uid = bpf_get_current_uid_gid();
		tag->pid = bpf_get_current_pid_tgid() >> 32;
	}
	return tag;
}

/* A socket may be a server's. What it answers the egress of the uplink knows, and the hooks do not. */
static __always_inline void tag_server(struct bpf_sock *sk)
{
	struct tag *tag = bpf_sk_storage_get(&bpfacq_tag, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (tag)
		tag->is_server = true;
	else
		count(COUNTER_BUG_TAG_STORAGE);
}

/*
 * Tells the packet path, where it cannot ask, that a socket is another namespace's:
 * with macvlan and ipvlan its packets leave by the device of an uplink as they are.
 */
static __always_inline void tag_foreign(struct bpf_sock *sk)
{
	struct tag *tag = has_tc_netns ? NULL : bpf_sk_storage_get(&bpfacq_tag, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (tag)
		tag->is_foreign = true;
}

/*
 * What was decided about the last destination of a socket, false if it was
 * another one or another generation. Who opened the flow holds over generations.
 */
static __always_inline bool tag_find(struct tag *tag, const struct destination *dst, __u32 generation,
				     struct judgement *judgement, __u32 *opener)
{
	bool found = false;

	bpf_spin_lock(&tag->lock);
	if (tag->port == dst->port && is_same(tag->addr, dst->addr)) {
		*opener = tag->opener;
		*judgement = tag->judgement;
		found = judgement->generation == generation;
	}
	bpf_spin_unlock(&tag->lock);
	return found;
}

static __always_inline void tag_keep(struct tag *tag, const struct destination *dst,
				     const struct judgement *judgement, __u32 opener)
{
	bpf_spin_lock(&tag->lock);
	__builtin_memcpy(tag->addr, dst->addr, sizeof(tag->addr));
	tag->port = dst->port;
	tag->opener = opener;
	tag->judgement = *judgement;
	bpf_spin_unlock(&tag->lock);
}

const enum opener *const binding_opener;

#endif
