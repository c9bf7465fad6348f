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

static __always_inline bool is_same(const __u8 a[16], const __u8 b[16])
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool is_zero(const __u8 addr[16])
{
	const __u64 *half = (const __u64 *)addr;

	return !half[0] && !half[1];
}

static __always_inline void loopback(__u8 addr[16], bool is4)
{
	__be32 *word = (__be32 *)addr;

	word[0] = 0;
	word[1] = 0;
	word[2] = is4 ? bpf_htonl(0xffff) : 0;
	word[3] = is4 ? bpf_htonl(INADDR_LOOPBACK) : bpf_htonl(1);
}

/* The source address that a socket is bound to, false for none. ::ffff:0.0.0.0 is a wildcard too. */
static __always_inline bool source_address(const struct bpf_sock *sk, __u8 addr[16])
{
	__be32 *word = (__be32 *)addr;

	if (sk->family == AF_INET) {
		map4(addr, sk->src_ip4);
		return sk->src_ip4 != 0;
	}
	word[0] = sk->src_ip6[0];
	word[1] = sk->src_ip6[1];
	word[2] = sk->src_ip6[2];
	word[3] = sk->src_ip6[3];
	return is_mapped4(addr) ? word[3] != 0 : !is_zero(addr);
}

/* fe80::/10: without its device such an address says nothing. */
static __always_inline bool is_link_local6(const __u8 addr[16])
{
	return (*(const __be32 *)addr & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Whether another host can be at addr: not loopback, unspecified, multicast or broadcast. */
static __always_inline bool is_remote(const __u8 addr[16])
{
	const __be32 *word = (const __be32 *)addr;

	if (is_mapped4(addr)) {
		__u32 host = bpf_ntohl(word[3]);

		return host >> 24 != 0 && host >> 24 != 127 && host >> 28 != 0xe && host != 0xffffffff;
	}
	if (!word[0] && !word[1] && !word[2])
		return bpf_ntohl(word[3]) > 1;
	return addr[0] != 0xff;
}

#endif
