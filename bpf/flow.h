// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_FLOW_H
#define BPFACQ_FLOW_H

#include "counter.h"

/* What is known of an acquired flow when its application connects: 64 bytes. */
struct record {
	__u8 orig_addr[16]; /* original destination, IPv4 is IPv4-mapped */
	__be16 orig_port;
	__u8 _pad[2];
	__u32 rule; /* index in the policy of that generation */
	__u32 generation;
	__u32 pid; /* thread group of the task that called connect() */
	__u32 uid;
	__u32 _pad2;
	__u64 cookie;	    /* socket cookie of the application's socket */
	__u64 netns_cookie; /* of the application's network namespace */
	__u64 since;	    /* CLOCK_MONOTONIC, nanoseconds */
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
	__u8 _pad[4];
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

/* The record of a client socket, from connect() until it is closed. */
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

#endif
