/* What hash() gives for numbers, without an object of Python.
 *
 * Python hashes a number to its remainder modulo a prime, with the sign of the number: equal ints and
 * floats have one hash. */

#ifndef MMGEVENT_NUMBER_HASH_H
#define MMGEVENT_NUMBER_HASH_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#define HASH_BITS (SIZEOF_VOID_P >= 8 ? 61 : 31) /* as sys.hash_info.modulus */
#define HASH_PRIME ((UINT64_C(1) << HASH_BITS) - 1)
#define HASH_OF_INFINITY 314159 /* sys.hash_info.inf */

/* A double, without its sign, is fraction * 2**(exponent - REAL_SCALE). */
#define REAL_FRACTION_BITS 52
#define REAL_SCALE 1075
#define REAL_ENDLESS 0x7FF /* the exponent of infinities and NaNs */

/* signed_hash -- the hash of a number whose absolute value has this one. */
static inline Py_hash_t
signed_hash(uint64_t size, int is_negative)
{
    const Py_hash_t hash = is_negative ? -(Py_hash_t)size : (Py_hash_t)size;

    return hash == -1 ? -2 : hash; /* -1 stands for an error */
}

/* hash_int -- what hash() gives for an int of 64 bits. */
static inline Py_hash_t
hash_int(int64_t number)
{
    const uint64_t size = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;

    return signed_hash(size % HASH_PRIME, number < 0);
}

/* hash_real -- what hash() gives for a float that is not NaN. */
static inline Py_hash_t
hash_real(double number)
{
    uint64_t bits = 0, size = HASH_OF_INFINITY;

    memcpy(&bits, &number, sizeof bits);
    const unsigned exponent = (unsigned)(bits >> REAL_FRACTION_BITS) & REAL_ENDLESS;
    if (exponent != REAL_ENDLESS) {
        /* 2**HASH_BITS is 1 modulo the prime.  So a product with a power of two turns the bits round,
         * and a factor of 2**-1 turns them by HASH_BITS - 1. */
        const unsigned turn = (exponent + !exponent + REAL_SCALE * (HASH_BITS - 1u)) % HASH_BITS;
        const uint64_t first = exponent == 0 ? 0 : UINT64_C(1) << REAL_FRACTION_BITS;
        size = ((bits & ((UINT64_C(1) << REAL_FRACTION_BITS) - 1)) | first) % HASH_PRIME;
        size = (size << turn & HASH_PRIME) | size >> (HASH_BITS - turn);
    }
    return signed_hash(size, (int)(bits >> 63));
}

#endif
