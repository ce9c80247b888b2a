/* Columns of plain values as bytes: kinds, limits, and packed numbers; _column*.py is the specification.
 *
 * _column_write.h and _column_read.h turn a list into a column and back. */

#ifndef MMGEVENT_COLUMN_H
#define MMGEVENT_COLUMN_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_xxh64.h"

/* The first byte of a column. */
enum column_kind {
    NOTHING_COLUMN = 0,
    INT_COLUMN = 1,
    STEP_COLUMN = 2,
    FLOAT_COLUMN = 3,
    BOOL_COLUMN = 4,
    TEXT_COLUMN = 5,
    BYTES_COLUMN = 6,
    TUPLE_COLUMN = 7,
    LIST_COLUMN = 8,
    SHARED_COLUMN = 9,
    NO_COLUMN = 255,
};

#define MAX_COLUMN_ARITY 8      /* items of a tuple */
#define MAX_COLUMN_DEPTH 5      /* columns within one another */
#define MIN_SHARING 4           /* elements of the shortest column of which repeated ones are written once */
#define MAX_SHARED_SIZE 256     /* of texts and bytes that count as one if they are equal, see _column.py */
#define GIVE_UP_SHARING_FROM 1024 /* distinct elements from which sharing is given up, see _column.py */
#define FIRST_COLUMN_ROOM 256   /* bytes of a writer; most columns of few records fit */
#define MAX_NUMBER_BITS 32      /* of the number of an element that is written once */
#define WORD 8                  /* bytes of a number that is not packed */

/* Bytes that are being written.  There are always WORD more bytes of room than were taken. */
struct writer {
    uint8_t *data; /* owned */
    size_t size;
    size_t room;
};

/* writer_take -- append `size` bytes, which the caller fills; NULL with MemoryError. */
static uint8_t *
writer_take(struct writer *writer, size_t size)
{
    if (size > PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return NULL;
    }
    if (writer->size + size + WORD > writer->room) {
        const size_t least = writer->size + size + WORD;
        const size_t room = least > 2 * writer->room ? least + FIRST_COLUMN_ROOM : 2 * writer->room;
        uint8_t *data = PyMem_Realloc(writer->data, room);
        if (data == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        writer->data = data;
        writer->room = room;
    }
    writer->size += size;
    return writer->data + writer->size - size;
}

static int
write_byte(struct writer *writer, uint8_t byte)
{
    uint8_t *at = writer_take(writer, 1);

    if (at == NULL) {
        return -1;
    }
    *at = byte;
    return 0;
}

static int
write_word(struct writer *writer, uint64_t word)
{
    uint8_t *at = writer_take(writer, WORD);

    if (at == NULL) {
        return -1;
    }
    write64(at, word);
    return 0;
}

/* width_of -- bytes of a number, 1 at least. */
static inline unsigned
width_of(uint64_t number)
{
    unsigned width = 1;

    while (width < WORD && number >> (8 * width) != 0) {
        width++;
    }
    return width;
}

/* write_packed -- write numbers as their width, the least of them, and how much larger each is. */
static int
write_packed(struct writer *writer, const int64_t *numbers, size_t count, int64_t least, int64_t most)
{
    const unsigned width = width_of((uint64_t)most - (uint64_t)least);

    if (write_byte(writer, (uint8_t)width) < 0 || write_word(writer, (uint64_t)least) < 0) {
        return -1;
    }
    uint8_t *at = writer_take(writer, count * width);
    if (at == NULL) {
        return -1;
    }
    for (size_t i = 0; i < count; i++, at += width) {
        write64(at, (uint64_t)numbers[i] - (uint64_t)least); /* the next number overwrites what is too much */
    }
    return 0;
}

/* bits_of -- bits of each number, up to `most`, of elements that are written once.
 *
 * in_bits  whether they may take less than a byte. */
static inline unsigned
bits_of(uint64_t most, int in_bits)
{
    return !in_bits || most >> 4 ? 8 * width_of(most) : most >> 2 ? 4 : most >> 1 ? 2 : 1;
}

/* write_bits -- write the bits of each number, and all numbers, the first in the lowest bits. */
static int
write_bits(struct writer *writer, const uint32_t *numbers, size_t count, unsigned bits)
{
    const size_t in_byte = bits < 8 ? 8 / bits : 1;
    const size_t size = bits < 8 ? count / in_byte + (count % in_byte != 0) : count * (bits / 8);
    uint8_t *at = write_byte(writer, (uint8_t)bits) < 0 ? NULL : writer_take(writer, size);

    if (at == NULL) {
        return -1;
    }
    if (bits < 8) {
        memset(at, 0, size);
    }
    for (size_t i = 0; i < count; i++) {
        if (bits < 8) {
            at[i / in_byte] |= (uint8_t)(numbers[i] << (i % in_byte * bits));
        }
        else {
            write64(at + i * (bits / 8), numbers[i]); /* the next number overwrites what is too much */
        }
    }
    return 0;
}

/* Bytes that are being read.  Nothing is made before its bytes are there. */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* damaged -- set the ValueError of bytes that are no column; always returns -1. */
static int
damaged(void)
{
    PyErr_SetString(PyExc_ValueError, "the bytes of a column are damaged");
    return -1;
}

static inline size_t
left(const struct reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* read_bytes -- the next `size` bytes; NULL with ValueError if there are fewer. */
static const uint8_t *
read_bytes(struct reader *reader, size_t size)
{
    if (size > left(reader)) {
        damaged();
        return NULL;
    }
    reader->at += size;
    return reader->at - size;
}

static int
read_byte(struct reader *reader, uint8_t *byte)
{
    const uint8_t *at = read_bytes(reader, 1);

    if (at == NULL) {
        return -1;
    }
    *byte = *at;
    return 0;
}

static int
read_word(struct reader *reader, uint64_t *word)
{
    const uint8_t *at = read_bytes(reader, WORD);

    if (at == NULL) {
        return -1;
    }
    *word = read64(at);
    return 0;
}

/* Packed numbers whose bytes are there. */
struct packed {
    const uint8_t *at;  /* of the first number */
    const uint8_t *end; /* of all bytes that may be read */
    uint64_t least;
    uint64_t mask;
    unsigned width;
};

/* read_packed -- find `count` packed numbers; 0, or -1 with ValueError. */
static int
read_packed(struct reader *reader, size_t count, struct packed *packed)
{
    uint8_t width = 0;

    if (read_byte(reader, &width) < 0 || read_word(reader, &packed->least) < 0) {
        return -1;
    }
    if (width < 1 || width > WORD || count > left(reader) / width) {
        return damaged();
    }
    packed->at = read_bytes(reader, count * width);
    packed->end = reader->end;
    packed->width = width;
    packed->mask = width == WORD ? UINT64_MAX : (UINT64_C(1) << (8 * width)) - 1;
    return 0;
}

/* packed_number -- the i-th of packed numbers, modulo 2**64. */
static inline uint64_t
packed_number(const struct packed *packed, size_t i)
{
    const uint8_t *at = packed->at + i * packed->width;
    uint64_t number = 0;

    if (packed->end - at >= WORD) {
        number = read64(at) & packed->mask;
    }
    else {
        for (unsigned k = 0; k < packed->width; k++) {
            number |= (uint64_t)at[k] << (8 * k);
        }
    }
    return packed->least + number;
}

/* packed_sizes -- check that packed numbers are sizes of what follows, of which at most so much is in a
 * byte; set their sum.  0, or -1 with ValueError. */
static int
packed_sizes(
    const struct reader *reader, const struct packed *packed, size_t count, size_t a_byte, size_t *sum)
{
    const size_t most = a_byte * left(reader);

    *sum = 0;
    for (size_t i = 0; i < count; i++) {
        const uint64_t size = packed_number(packed, i);
        if (size > most - *sum) {
            return damaged();
        }
        *sum += (size_t)size;
    }
    return 0;
}

/* read_bits -- find `count` numbers of a few bits or bytes; NULL with ValueError.
 *
 * in_bits  whether they may take less than a byte.
 * *bits    set to the bits of each. */
static const uint8_t *
read_bits(struct reader *reader, size_t count, int in_bits, unsigned *bits)
{
    uint8_t byte = 0;

    if (read_byte(reader, &byte) < 0) {
        return NULL;
    }
    *bits = byte;
    if (in_bits && (byte == 1 || byte == 2 || byte == 4)) {
        const size_t in_byte = 8 / byte;
        return read_bytes(reader, count / in_byte + (count % in_byte != 0));
    }
    if (byte == 0 || byte % 8 != 0 || byte > MAX_NUMBER_BITS || count > left(reader) / (byte / 8)) {
        damaged();
        return NULL;
    }
    return read_bytes(reader, count * (byte / 8));
}

/* bits_number -- the i-th of such numbers. */
static inline uint32_t
bits_number(const uint8_t *at, unsigned bits, size_t i)
{
    uint32_t number = 0;

    if (bits < 8) {
        const size_t in_byte = 8 / bits;
        return at[i / in_byte] >> (i % in_byte * bits) & ((1u << bits) - 1);
    }
    at += i * (bits / 8);
    for (unsigned k = 0; k < bits / 8; k++) {
        number |= (uint32_t)at[k] << (8 * k);
    }
    return number;
}

#endif
