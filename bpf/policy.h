// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_POLICY_H
#define BPFACQ_POLICY_H

#include "address.h"
#include "counter.h"
#include "flow.h"

/*
 * The compiled policy. Every map has two slots. The word in bpfacq_active is
 * the generation in force; its lowest bit is the slot. Userspace fills the idle
 * slot, checks it, and stores the next generation: one store flips every map at
 * once, and a program that reads the word once never sees a mixture.
 */
#define SLOTS 2
#define TEXT_LEN 136 /* of an id or a name, the final zero included */

enum action {
	ACTION_NONE,
	ACTION_BYPASS,	  /* leave the flow alone, stop evaluating */
	ACTION_TUNNEL,	  /* acquire */
	ACTION_PROTECT,	  /* never acquired, whatever the rules say */
	ACTION_SYNTHETIC, /* the address stands for a name, whose row decides */
	ACTION_REJECT,	  /* refuse packets at once, so that the application tries another way */
};

enum hardening {
	HARDENING_NONE,
	HARDENING_BYPASS, /* go direct: fail open */
	HARDENING_BLOCK,  /* refuse: fail closed */
};

struct prefix4 {
	__u32 len; /* bits, host byte order */
	__u8 addr[4];
};

struct prefix6 {
	__u32 len; /* bits, host byte order */
	__u8 addr[16];
};

/* Port (host byte order) to port class. */
struct port_classes {
	__u16 tcp[65536];
	__u16 udp[65536];
};

/* One rule, or one protected destination, of a generation. */
struct entry {
	char id[TEXT_LEN]; /* of the rule, or the reason of the protection */
	__u64 order;	   /* bits of an IEEE 754 double */
	__u32 rule;	   /* index in the policy, for the record */
	__u32 channel;	   /* index in bpfacq_channel */
	__u8 action;	   /* enum action */
	__u8 hardening;	   /* enum hardening */
	__u8 _pad[6];
};

enum channel_state {
	CHANNEL_UNKNOWN,
	CHANNEL_CONNECTING,
	CHANNEL_UP,
	CHANNEL_DOWN,
};

/* Whether the edges of a channel carry datagrams, as far as they were asked. */
enum datagrams {
	DATAGRAMS_UNKNOWN,
	DATAGRAMS_CARRIED,
	DATAGRAMS_REFUSED,
};

struct channel {
	char id[TEXT_LEN];
	char name[TEXT_LEN];
	__u8 state;	/* enum channel_state, for people */
	__u8 datagrams; /* enum datagrams */
	__u8 _pad[6];
};

struct name_key {
	__u8 addr[16]; /* a synthetic address */
};

/* What a synthetic address stands for: a host by its name. */
struct name {
	__u8 orig_addr[16]; /* its original address, of the same family */
	__u32 row;	    /* of the verdict table, as the tries have it */
	__u8 has_orig;
	__u8 _pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bpfacq_active SEC(".maps");

// clang-format off
/* A map of two slots. Userspace makes the inner map of a slot as large as the policy. */
#define SLOTTED(map, inner_type, inner_flags, inner_key, inner_value)	\
	struct {							\
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);		\
		__uint(max_entries, SLOTS);				\
		__type(key, __u32);					\
		__array(values, struct {				\
			__uint(type, inner_type);			\
			__uint(map_flags, inner_flags);			\
			__uint(max_entries, 1);				\
			__uint(key_size, sizeof(inner_key));		\
			__uint(value_size, sizeof(inner_value));	\
		});							\
	} map SEC(".maps")
// clang-format on

#define SLOTTED_TRIE(map, inner_key) SLOTTED(map, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, inner_key, __u32)
#define SLOTTED_ARRAY(map, inner_value) SLOTTED(map, BPF_MAP_TYPE_ARRAY, BPF_F_INNER_MAP, __u32, inner_value)

SLOTTED_TRIE(bpfacq_prefix4, struct prefix4);	  /* to the row of the verdict table */
SLOTTED_TRIE(bpfacq_prefix6, struct prefix6);	  /* the same for IPv6 */
SLOTTED_ARRAY(bpfacq_ports, struct port_classes); /* one element: the classes of all ports */
SLOTTED_ARRAY(bpfacq_verdict, __u32);		  /* row plus class to entry plus one; 0 is none */
SLOTTED_ARRAY(bpfacq_entry, struct entry);
SLOTTED_ARRAY(bpfacq_channel, struct channel);
SLOTTED(bpfacq_name, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, struct name_key, struct name);

/* The generation in force, 0 before the first. Read it once per decision. */
static __always_inline __u32 policy_generation(void)
{
	__u32 zero = 0;
	volatile __u32 *active = bpf_map_lookup_elem(&bpfacq_active, &zero);

	return active ? *active : 0;
}

/* What the two functions below answer where there is nothing to be found. */
enum {
	POLICY_NONE = -1,
	POLICY_TORN = -2, /* a map lacks an entry */
};

/*
 * The row of the verdict table for the address of four words, or POLICY_NONE
 * where no prefix covers it. A global function of numbers alone: the verifier
 * walks through it once, however often and wherever it is called.
 */
__noinline int policy_row(__u32 slot, __be32 a, __be32 b, __be32 c, __be32 d)
{
	__u32 *row;

	if (!a && !b && c == bpf_htonl(0xffff)) {
		void *prefixes = bpf_map_lookup_elem(&bpfacq_prefix4, &slot);
		struct prefix4 key = { .len = 32 };

		*(__be32 *)key.addr = d;
		row = prefixes ? bpf_map_lookup_elem(prefixes, &key) : NULL;
	} else {
		void *prefixes = bpf_map_lookup_elem(&bpfacq_prefix6, &slot);
		struct prefix6 key = { .len = 128 };
		__be32 *word = (__be32 *)key.addr;

		word[0] = a;
		word[1] = b;
		word[2] = c;
		word[3] = d;
		row = prefixes ? bpf_map_lookup_elem(prefixes, &key) : NULL;
	}
	return row ? *row : POLICY_NONE;
}

/*
 * The index of the entry that wins for a port (host byte order) in a row, or one
 * of the two kinds of none. A table with a hole would be a bug of userspace, which
 * checks each slot before the flip; the flow then passes, since without an
 * entry there is no hardening to ask.
 */
__noinline int policy_cell(__u32 slot, __u32 row, __u32 protocol, __u32 port)
{
	__u32 zero = 0;
	void *ports = bpf_map_lookup_elem(&bpfacq_ports, &slot);
	struct port_classes *classes = ports ? bpf_map_lookup_elem(ports, &zero) : NULL;
	void *verdicts = bpf_map_lookup_elem(&bpfacq_verdict, &slot);

	if (!classes || !verdicts)
		return POLICY_TORN;
	port &= 0xffff; /* the verifier knows nothing of an argument */
	__u32 cell = row + (protocol == IPPROTO_UDP ? classes->udp[port] : classes->tcp[port]);
	__u32 *verdict = bpf_map_lookup_elem(verdicts, &cell);
	if (!verdict)
		return POLICY_TORN;
	return *verdict ? *verdict - 1 : POLICY_NONE;
}

/* What wins for a flow: an entry, or NULL and why there is none. */
struct match {
	const struct entry *entry;
	enum counter why;
};

static __always_inline struct match policy_match_row(__u32 slot, int row, __u32 protocol, __be16 port)
{
	struct match match = { .why = COUNTER_PASS_UNMATCHED };

	if (row < 0)
		return match;
	int cell = policy_cell(slot, row, protocol, bpf_ntohs(port));
	if (cell == POLICY_NONE)
		return match;
	void *entries = bpf_map_lookup_elem(&bpfacq_entry, &slot);
	__u32 index = cell;
	match.why = COUNTER_BUG_POLICY_TORN;
	match.entry = entries ? bpf_map_lookup_elem(entries, &index) : NULL;
	return match;
}

static __always_inline struct match policy_match(__u32 slot, __u32 protocol, const struct destination *dst)
{
	const __be32 *word = (const __be32 *)dst->addr;

	return policy_match_row(slot, policy_row(slot, word[0], word[1], word[2], word[3]), protocol, dst->port);
}

/* What a synthetic address stands for, or NULL. */
static __always_inline const struct name *policy_name(__u32 slot, const __u8 addr[16])
{
	void *names = bpf_map_lookup_elem(&bpfacq_name, &slot);

	return names ? bpf_map_lookup_elem(names, addr) : NULL;
}

/* Keeps in the BTF the types that only inner maps and byte fields use, for the Go bindings. */
const struct prefix4 *const binding_prefix4;
const struct prefix6 *const binding_prefix6;
const struct port_classes *const binding_port_classes;
const struct entry *const binding_entry;
const struct name_key *const binding_name_key;
const struct name *const binding_name;
const enum kind *const binding_kind;
const struct pools *const binding_pools;
const struct channel *const binding_channel;
const enum counter *const binding_counter;
const enum action *const binding_action;
const enum hardening *const binding_hardening;
const enum channel_state *const binding_channel_state;
const enum datagrams *const binding_datagrams;

#endif
