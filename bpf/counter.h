// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_COUNTER_H
#define BPFACQ_COUNTER_H

/*
 * One counter for every way out of a program. The first group counts connect()
 * calls of TCP, and of UDP the calls of connect() and sendmsg() that go to port 53
 * or to a synthetic address, one counter each; the second the handoff of acquired
 * flows; the third the datagrams that the agent received as queries; the fourth
 * the packets of the packet path, a train that is still whole being one; the
 * fifth what should never happen.
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
	COUNTER_PASS_PACKETS,	/* to a synthetic address: for the packet path to take */

	COUNTER_HANDOFF_OFFERED,   /* record left for the listener */
	COUNTER_HANDOFF_TAKEN,	   /* record moved to an accepted socket */
	COUNTER_HANDOFF_WITHDRAWN, /* client closed before the listener took its record */
	COUNTER_HANDOFF_MISSED,	   /* the listener was reached without a record */

	COUNTER_QUERY_KNOWN,	 /* its socket was found: server and asker are known */
	COUNTER_QUERY_ASKERLESS, /* only its device was: the server is known */
	COUNTER_QUERY_MISSED,	 /* neither: nobody took it there */

	/* At the egress of an uplink. */
	COUNTER_PACKET_INACTIVE,  /* no packet path, no policy, or no agent ever ran */
	COUNTER_PACKET_OTHER,	  /* neither TCP nor UDP nor an ICMP error, or tagged for a VLAN */
	COUNTER_PACKET_EXEMPT,	  /* a socket that the agent stamped */
	COUNTER_PACKET_FOREIGN,	  /* a socket of another namespace that shares the device */
	COUNTER_PACKET_FORWARDED, /* forwarded, and those are left alone */
	COUNTER_PACKET_MOVED,	  /* a socket hook has decided, and moved it */
	COUNTER_PACKET_UNTAGGED,  /* of a connection that was let pass, or never decided about */
	COUNTER_PACKET_UNMATCHED, /* no rule to acquire or refuse it */
	COUNTER_PACKET_HARDENED,  /* a Tunnel rule that could not be served, hardening Bypass */
	COUNTER_PACKET_ANSWER,	  /* of a flow that the other side opened */
	COUNTER_PACKET_ACQUIRE,	  /* to the enclave, to be carried */
	COUNTER_PACKET_REFUSE,	  /* to the enclave, to be refused */
	COUNTER_PACKET_STRAY,	  /* to the enclave: of a connection that no socket here knows */
	COUNTER_PACKET_ERROR,	  /* to the enclave: an ICMP error about what came from there */
	COUNTER_PACKET_BLOCK,	  /* dropped: nobody serves, hardening Block */
	COUNTER_PACKET_UNPLACED,  /* dropped: without ports, or a fragment whose first one was not seen */
	/* At the ingress of an uplink. */
	COUNTER_PACKET_OPENED, /* the other side opened a flow */
	/* In the enclave, and from there. */
	COUNTER_LOOKUP_ACQUIRE, /* given to a socket of the relay */
	COUNTER_LOOKUP_REFUSE,	/* reset, or port unreachable */
	COUNTER_REPLY,		/* to the uplink, as if it came from the network */
	COUNTER_REPLY_DROP,	/* neither IP nor for one host */

	COUNTER_BUG_POLICY_TORN,    /* a map of the active generation lacks an entry */
	COUNTER_BUG_CLIENT_STORAGE, /* no memory for the record of a client socket */
	COUNTER_BUG_ACCEPT_STORAGE, /* no memory for the record of an accepted socket */
	COUNTER_BUG_PEER_STORAGE,   /* no memory for the peers of a UDP socket */
	COUNTER_BUG_QUERY_STORAGE,  /* no memory for what is known of a query */
	COUNTER_BUG_HANDOFF_FULL,   /* the handoff map took no entry */
	COUNTER_BUG_FLAGS,	    /* the socket refused the state callback */
	COUNTER_BUG_TAG_STORAGE,    /* no memory for the tag of a socket */
	COUNTER_BUG_PACKET,	    /* a packet could not be read or written */
	COUNTER_BUG_RELAY_SOCKET,   /* the enclave has no socket for a family and protocol */

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
