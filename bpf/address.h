// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#ifndef BPFACQ_ADDRESS_H
#define BPFACQ_ADDRESS_H

/* Addresses are 16 bytes in network order; IPv4 is IPv4-mapped (RFC 4291, 2.5.5.2). */

#define AF_INET 2
#define AF_INET6 10

static __always_inline bool is_mapped4(const __u8 addr[16])
{
	const __u32 *word = (const __u32 *)addr;

	return !word[0] && !word[1] && word[2] == bpf_htonl(0xffff);
}

static __always_inline void map4(__u8 addr[16], __be32 addr4)
{
	__u32 *word = (__u32 *)addr;

	word[0] = 0;
	word[1] = 0;
	word[2] = bpf_htonl(0xffff);
	word[3] = addr4;
}

#endif
