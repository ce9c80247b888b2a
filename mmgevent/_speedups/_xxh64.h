/* XXH64, from its specification (Yann Collet, xxHash fast digest algorithm).
 *
 * The hash of a key is part of the protocol: every process and platform must give the same one.
 * So bytes are read as little-endian by shifts, whatever the machine is. */

#ifndef MMGEVENT_XXH64_H
#define MMGEVENT_XXH64_H

#include <stdint.h>
#include <string.h>

#define PRIME_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME_3 UINT64_C(0x165667B19E3779F9)
#define PRIME_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME_5 UINT64_C(0x27D4EB2F165667C5)

#define STRIPE 32 /* bytes per round of the four lanes */

static inline uint64_t
rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline uint32_t
read32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t
read64(const uint8_t *p)
{
    return (uint64_t)read32(p) | (uint64_t)read32(p + 4) << 32;
}

static inline void
write64(uint8_t *p, uint64_t x)
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(x >> (8 * i));
    }
}

static inline uint64_t
mix(uint64_t lane, uint64_t input)
{
    return rotate(lane + input * PRIME_2, 31) * PRIME_1;
}

static inline void
mix_stripe(uint64_t lanes[4], const uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        lanes[i] = mix(lanes[i], read64(p + 8 * i));
    }
}

static uint64_t
merge_lanes(const uint64_t lanes[4])
{
    uint64_t hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
    for (int i = 0; i < 4; i++) {
        hash = (hash ^ mix(0, lanes[i])) * PRIME_1 + PRIME_4;
    }
    return hash;
}

static uint64_t
mix_tail(uint64_t hash, const uint8_t *p, size_t size)
{
    for (; size >= 8; p += 8, size -= 8) {
        hash = rotate(hash ^ mix(0, read64(p)), 27) * PRIME_1 + PRIME_4;
    }
    if (size >= 4) {
        hash = rotate(hash ^ read32(p) * PRIME_1, 23) * PRIME_2 + PRIME_3;
        p += 4;
        size -= 4;
    }
    for (; size > 0; p++, size--) {
        hash = rotate(hash ^ *p * PRIME_5, 11) * PRIME_1;
    }
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

#define NO_TAG (-1)

/* xxh64_tagged -- XXH64 of one tag byte (none if NO_TAG) and the data after it, without a copy of both. */
static uint64_t
xxh64_tagged(int tag, const uint8_t *data, size_t size, uint64_t seed)
{
    uint8_t head[STRIPE];
    size_t head_size = 0;
    uint64_t hash = seed + PRIME_5;
    const uint64_t total = (uint64_t)size + (tag != NO_TAG);

    if (tag != NO_TAG) {
        head[0] = (uint8_t)tag;
        head_size = 1;
    }
    if (total < STRIPE) {
        if (size > 0) {
            memcpy(head + head_size, data, size);
        }
        return mix_tail(hash + total, head, (size_t)total);
    }
    uint64_t lanes[4] = {seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1};
    if (head_size > 0) {
        memcpy(head + head_size, data, STRIPE - head_size);
        mix_stripe(lanes, head);
        data += STRIPE - head_size;
        size -= STRIPE - head_size;
    }
    for (; size >= STRIPE; data += STRIPE, size -= STRIPE) {
        mix_stripe(lanes, data);
    }
    hash = merge_lanes(lanes);
    return mix_tail(hash + total, data, size);
}

#endif
