// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_FLOW_H
#define BPFACQ_FLOW_H

#include "address.h"
#include "counter.h"

#define DNS_PORT 53
#define DNS_PORTS 8 /* consecutive UDP ports of the agent: one for each server that a socket asks */

/* Where the application meant to go. IPv4 is IPv4-mapped. */
struct destination {
	__u8 addr[16];
	__be16 port;
};

/* What a record is of. */
enum kind {
	KIND_FLOW,
	KIND_QUERY,  /* to port 53, taken whatever the rules say */
	KIND_DIRECT, /* to the original address of a name: not for the listener */
};

/* What becomes of a packet to an original address that a socket hook chose. */
enum course {
	COURSE_RULES, /* as of any packet: the rules of addresses decide */
	COURSE_PASS,  /* a rule of the name has decided: it goes direct */
};

/* What is known of a TCP socket that was sent elsewhere, from its connect(): 88 bytes. */
struct record {
	__u8 orig_addr[16]; /* original destination, IPv4 is IPv4-mapped */
	__u8 told_addr[16]; /* what the application named: a synthetic address may stand for it */
	__be16 orig_port;
	__u8 kind;   /* enum kind */
	__u8 course; /* enum course, of KIND_DIRECT */
	__u32 rule;  /* index in the policy of that generation */
	__u32 generation;
	__u32 pid; /* thread group of the task that called connect() */
	__u32 uid;
	__u32 mark;	    /* SO_MARK of the application's socket */
	__u64 cookie;	    /* socket cookie of the application's socket */
	__u64 netns_cookie; /* of the application's network namespace */
	__u64 since;	    /* CLOCK_MONOTONIC, nanoseconds */
};

/* Where synthetic addresses lie, as UDP asks in passing. A mask of 0 is no pool. */
struct pools {
	__u64 addr6[2];
	__u64 mask6[2];
	__be32 addr4;
	__be32 mask4;
};

/*
 * What the programs know of the running agent. The agent writes it through
 * mmap; lease_until is one aligned store.
 */
struct agent {
	__u64 lease_until;  /* CLOCK_MONOTONIC, nanoseconds; later means that no agent is alive */
	__u64 netns_cookie; /* of the agent's network namespace */
	__be16 port4;	    /* listener on 127.0.0.1, 0 is none */
	__be16 port6;	    /* listener on ::1, 0 is none */
	__u16 dns4;	    /* first of DNS_PORTS for IPv4 servers, host byte order, 0 is none */
	__u16 dns6;	    /* the same for IPv6 servers */
	struct pools pools;
	__u64 learn_from; /* CLOCK_MONOTONIC, nanoseconds: until then no datagram opens a flow from the network */
	__u8 packets;	  /* 1: the packet path is in use */
	__u8 containers;  /* 1: forwarded packets are acquired too */
	__u8 _pad[6];
};

/*
 * The agent's mark on its own sockets, made by file descriptor before they
 * connect. The hook answers with the cookie of the namespace, the only way to
 * learn it before Linux 5.14.
 */
struct stamp {
	__u64 netns_cookie;
};

/*
 * A handshake on its way to the listener, seen from the client. Entries come
 * only from the agent's namespace, so a namespace in the key would be constant.
 */
struct handoff_key {
	__u8 client[16]; /* source address, IPv4 is IPv4-mapped */
	__be16 client_port;
	__be16 listener_port;
	__u8 _pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agent);
} bpfacq_agent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stamp);
} bpfacq_exempt SEC(".maps");

/* The record of a TCP client socket, from connect() until it is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} bpfacq_client SEC(".maps");

/* The record of a socket that the listener accepted. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} bpfacq_accept SEC(".maps");

/* Records on their way, for one handshake each. Never an LRU: that forgets live flows. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct handoff_key);
	__type(value, struct record);
} bpfacq_handoff SEC(".maps");

static __always_inline const struct agent *agent_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bpfacq_agent, &zero);
}

static __always_inline bool is_lease_fresh(const struct agent *agent)
{
	return bpf_ktime_get_ns() <= *(volatile __u64 *)&agent->lease_until;
}

/*
 * One of the agent's ports, or 0 where no agent is alive or listens there. The
 * lease is read before the port. An agent that announces itself ends the lease of
 * its predecessor, writes its ports and then grants its own: whoever sees that
 * one sees those ports.
 */
static __always_inline __u16 served_port(const struct agent *agent, const __u16 *port)
{
	return is_lease_fresh(agent) ? *(volatile __u16 *)port : 0;
}

static __always_inline bool is_in_pool(const struct agent *agent, const __u8 addr[16])
{
	const struct pools *pools = &agent->pools;
	const __u64 *half = (const __u64 *)addr;

	if (is_mapped4(addr))
		return pools->mask4 && (((const __be32 *)addr)[3] & pools->mask4) == pools->addr4;
	return pools->mask6[0] && (half[0] & pools->mask6[0]) == pools->addr6[0] &&
	       (half[1] & pools->mask6[1]) == pools->addr6[1];
}

#endif
