// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_COUNTER_H
#define BPFACQ_COUNTER_H

/*
 * One counter for every way out of a program. The first group counts TCP
 * connect() calls, one counter each; the second the handoff of acquired flows;
 * the third what should never happen.
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

	COUNTER_HANDOFF_OFFERED,   /* record left for the listener */
	COUNTER_HANDOFF_TAKEN,	   /* record moved to an accepted socket */
	COUNTER_HANDOFF_WITHDRAWN, /* client closed before the listener took its record */
	COUNTER_HANDOFF_MISSED,	   /* the listener was reached without a record */

	COUNTER_BUG_POLICY_TORN,    /* a map of the active generation lacks an entry */
	COUNTER_BUG_CLIENT_STORAGE, /* no memory for the record of a client socket */
	COUNTER_BUG_ACCEPT_STORAGE, /* no memory for the record of an accepted socket */
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
