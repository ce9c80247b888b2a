/* Characters of words: decoded, encoded, and in lower case if they are ASCII. */

#ifndef MMGEVENT_WORD_CODEC_H
#define MMGEVENT_WORD_CODEC_H

#include <stddef.h>
#include <stdint.h>

enum { CODEC_UTF8, CODEC_SURROGATES, CODEC_ASCII, CODEC_LATIN1 };     /* CODEC_SURROGATES: lone ones are valid */

#define MAX_CHAR_BYTES 4

static inline int
is_tail(const uint8_t *p)
{
    return (*p & 0xC0) == 0x80;
}

/* decode_char -- decode the character of a byte beyond ASCII.
 *
 * Returns how many bytes it has, or 0 if they are not of the encoding. */
static inline int
decode_char(int codec, const uint8_t *p, const uint8_t *end, uint32_t *code)
{
    const ptrdiff_t left = end - p;

    if (codec == CODEC_LATIN1) {
        *code = p[0];
        return 1;
    }
    if (codec == CODEC_ASCII || p[0] < 0xC2 || p[0] > 0xF4 || left < 2 || !is_tail(p + 1)) {
        return 0;
    }
    if (p[0] < 0xE0) {
        *code = (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (left < 3 || !is_tail(p + 2)) {
        return 0;
    }
    if (p[0] < 0xF0) {
        *code = (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        return *code >= 0x800 && (codec == CODEC_SURROGATES || *code < 0xD800 || *code > 0xDFFF) ? 3 : 0;
    }
    if (left < 4 || !is_tail(p + 3)) {
        return 0;
    }
    *code = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6
            | (p[3] & 0x3F);
    return *code >= 0x10000 && *code <= 0x10FFFF ? 4 : 0;
}

/* encode_char -- write a character in UTF-8, also a lone surrogate; returns how many bytes. */
static inline int
encode_char(uint32_t code, uint8_t *p)
{
    if (code < 0x80) {
        p[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        p[0] = (uint8_t)(0xC0 | code >> 6);
        p[1] = (uint8_t)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        p[0] = (uint8_t)(0xE0 | code >> 12);
        p[1] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        p[2] = (uint8_t)(0x80 | (code & 0x3F));
        return 3;
    }
    p[0] = (uint8_t)(0xF0 | code >> 18);
    p[1] = (uint8_t)(0x80 | (code >> 12 & 0x3F));
    p[2] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    p[3] = (uint8_t)(0x80 | (code & 0x3F));
    return 4;
}

static inline uint64_t
lower_ascii_8(uint64_t bytes)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t is_from_a = bytes + (0x80 - 'A') * ones;    /* top bit of each byte; all bytes are ASCII */
    const uint64_t is_after_z = bytes + (0x80 - 'Z' - 1) * ones;

    return bytes | ((is_from_a & ~is_after_z & (0x80 * ones)) >> 2);
}

static inline uint8_t
lower_ascii(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte;
}

#endif
