// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_COUNTER_H
#define BPFACQ_COUNTER_H

/*
 * One counter for every way out of a program. The first group counts connect()
 * calls of TCP, and of UDP the calls of connect() and sendmsg() that go to port 53
 * or to a synthetic address, one counter each; the second the handoff of acquired
 * flows; the third the datagrams that the agent received as queries; the fourth
 * what should never happen.
 */
enum counter {
	COUNTER_PASS_EXEMPT,	/* a socket that the agent stamped */
	COUNTER_PASS_FOREIGN,	/* another network namespace than the agent's */
	COUNTER_PASS_BOUND,	/* bound to a device or a source address */
	COUNTER_PASS_INACTIVE,	/* no policy is loaded, or no agent ever ran */
	COUNTER_PASS_PROTECTED, /* a destination that is never acquired */
	COUNTER_PASS_UNMATCHED, /* no rule covers it */
	COUNTER_PASS_BYPASS,	/* a Bypass rule */
	COUNTER_PASS_HARDENED,	/* a Tunnel rule that could not be served, hardening Bypass */
	COUNTER_ACQUIRE,	/* a Tunnel rule */
	COUNTER_BLOCK,		/* a Tunnel rule that could not be served, hardening Block */
	COUNTER_PASS_ORIGINAL,	/* a name that is not acquired there: to its original address */
	COUNTER_BLOCK_UNKNOWN,	/* a synthetic address that stands for no name */
	COUNTER_BLOCK_ORIGINAL, /* a name that was to go direct and has no original address */
	COUNTER_BLOCK_CROWDED,	/* a name that was to go direct, from a socket with too many peers */
	COUNTER_ACQUIRE_QUERY,	/* port 53: taken to the agent */
	COUNTER_PASS_UNSERVED,	/* port 53: no agent takes queries */
	COUNTER_PASS_SERVER,	/* port 53: from port 53, where servers answer */
	COUNTER_PASS_SCOPE,	/* port 53: a link-local server, the device unknown */
	COUNTER_PASS_DEVICE,	/* port 53: bound to a device that has no address for it */
	COUNTER_PASS_CROWDED,	/* port 53: servers that could not be told apart */

	COUNTER_HANDOFF_OFFERED,   /* record left for the listener */
	COUNTER_HANDOFF_TAKEN,	   /* record moved to an accepted socket */
	COUNTER_HANDOFF_WITHDRAWN, /* client closed before the listener took its record */
	COUNTER_HANDOFF_MISSED,	   /* the listener was reached without a record */

	COUNTER_QUERY_KNOWN,	 /* its socket was found: server and asker are known */
	COUNTER_QUERY_ASKERLESS, /* only its device was: the server is known */
	COUNTER_QUERY_MISSED,	 /* neither: nobody took it there */

	COUNTER_BUG_POLICY_TORN,    /* a map of the active generation lacks an entry */
	COUNTER_BUG_CLIENT_STORAGE, /* no memory for the record of a client socket */
	COUNTER_BUG_ACCEPT_STORAGE, /* no memory for the record of an accepted socket */
	COUNTER_BUG_PEER_STORAGE,   /* no memory for the peers of a UDP socket */
	COUNTER_BUG_QUERY_STORAGE,  /* no memory for what is known of a query */
	COUNTER_BUG_HANDOFF_FULL,   /* the handoff map took no entry */
	COUNTER_BUG_FLAGS,	    /* the socket refused the state callback */

	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} bpfacq_counter SEC(".maps");

static __always_inline void count(enum counter which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&bpfacq_counter, &key);

	if (value)
		*value += 1;
}

#endif
