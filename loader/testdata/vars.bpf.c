/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One global variable of every kind, and a program that writes all of them into the packet. */
#include "fixture.h"

enum color { RED, GREEN, BLUE = 200 };
enum big { SMALL = 1, HUGE = 0x100000000ULL };
enum sign { MINUS = -1, PLUS = 1 };

struct point {
	__s16 x, y;
	__u8 tag;
};

struct shape {
	struct point corners[2];
	enum color color;
	union {
		__u32 number;
		__u8 bytes[4];
	} id;
	struct {
		__u64 anonymous;
	};
};

struct flags {
	__u32 low : 3, mid : 10, high : 19;
};

struct prefix {
	__u32 prefixlen;
	__u8 addr[4];
};

/* The packet as the program leaves it. */
struct out {
	__u8 u8;
	__s8 s8;
	__u16 u16;
	__s16 s16;
	__u32 u32;
	__s32 s32;
	__u64 u64;
	__s64 s64;
	__u8 flag;
	char text[16];
	enum color color;
	enum big big;
	enum sign sign;
	__be16 be16;
	__be32 be32;
	__be64 be64;
	__u32 ip;
	__u8 mac[6];
	__u8 ip6[16];
	__u16 list[4];
	struct shape shape;
	struct flags flags;
	struct prefix prefix;
	__u32 data_word;
	__u64 bss_word;
	__u32 other_rodata;
	__u32 other_data;
} __attribute__((packed));

const volatile __u8 v_u8 = 1;
const volatile __s8 v_s8 = 1;
const volatile __u16 v_u16 = 1;
const volatile __s16 v_s16 = 1;
const volatile __u32 v_u32 = 1;
const volatile __s32 v_s32 = 1;
const volatile __u64 v_u64 = 1;
const volatile __s64 v_s64 = 1;
const volatile _Bool v_bool;
const volatile char v_text[16] = "as compiled";
const volatile enum color v_color = GREEN;
const volatile enum big v_big = SMALL;
const volatile enum sign v_sign = PLUS;
const volatile __be16 v_be16;
const volatile __be32 v_be32;
const volatile __be64 v_be64;
const volatile __u32 v_ip;
const volatile __u8 v_mac[6];
const volatile __u8 v_ip6[16];
const volatile __u16 v_list[4];
const volatile struct shape v_shape;
const volatile struct flags v_flags;
const volatile struct prefix v_prefix;
volatile __u32 data_word = 7;
volatile __u64 bss_word;
const volatile __u32 other_rodata SEC(".rodata.other") = 9;
volatile __u32 other_data SEC(".data.other") = 11;

/* A manifest cannot name this one: it has no symbol of its own to the outside. */
static const volatile __u32 hidden = 3;

#define copy(to, from)                                                                             \
	_Pragma("clang loop unroll(full)") for (int i = 0; i < (int)sizeof(from); i++)            \
		((__u8 *)&(to))[i] = ((const volatile __u8 *)&(from))[i]

SEC("xdp")
int dump(struct xdp_md *ctx)
{
	struct out *o = (void *)(long)ctx->data;

	if ((void *)(o + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	o->u8 = v_u8;
	o->s8 = v_s8;
	o->u16 = v_u16;
	o->s16 = v_s16;
	o->u32 = v_u32;
	o->s32 = v_s32;
	o->u64 = v_u64;
	o->s64 = v_s64;
	o->flag = v_bool;
	copy(o->text, v_text);
	o->color = v_color;
	o->big = v_big;
	o->sign = v_sign;
	o->be16 = v_be16;
	o->be32 = v_be32;
	o->be64 = v_be64;
	o->ip = v_ip;
	copy(o->mac, v_mac);
	copy(o->ip6, v_ip6);
	copy(o->list, v_list);
	copy(o->shape, v_shape);
	copy(o->flags, v_flags);
	copy(o->prefix, v_prefix);
	o->data_word = data_word;
	o->bss_word = bss_word;
	o->other_rodata = other_rodata;
	o->other_data = other_data;
	bss_word++;
	return hidden == 3 ? XDP_PASS : XDP_ABORTED;
}
