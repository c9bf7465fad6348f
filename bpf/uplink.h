// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_UPLINK_H
#define BPFACQ_UPLINK_H

/*
 * An uplink, and the pair of devices between it and its enclave: the namespace in
 * which the relay listens. Each uplink has an enclave of its own, so where a
 * packet comes from says where its answer goes.
 */

#define MAC_LEN 6

struct uplink {
	__u64 mac;		/* the uplink's own, in its first six bytes, as its packets say; 0 is unknown */
	__u32 pair;		/* index of the device that leads to the enclave, 0 is none */
	__u8 pair_mac[MAC_LEN]; /* of its far end */
	__u8 is_l3;		/* packets of the uplink have no Ethernet header */
	__u8 _pad[5];
};

/* By the index of the uplink. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct uplink);
} bpfacq_uplink SEC(".maps");

/* The index of the device that leads to an enclave to that of its uplink. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} bpfacq_pair SEC(".maps");

#endif
