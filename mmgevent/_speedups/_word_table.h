/* A hash table that counts words, which are bytes.
 *
 * A word of at most INLINE_BYTES lies in its entry; the bytes of longer ones follow each other in the arena.  So most
 * words touch one cache line, and none is a Python object.  The hash has a seed of this process, so that nobody can
 * write a text whose words collide. */

#ifndef MMGEVENT_WORD_TABLE_H
#define MMGEVENT_WORD_TABLE_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_words.h"
#include "_xxh64.h"

#define FIRST_WORD_SLOTS 64
#define MAX_COUNTED_WORDS (UINT32_C(1) << 24) /* words; so a table has less than 2 GiB */
#define LONG_WORD (INLINE_BYTES + 1)
#define CACHE_LINE_BYTES 64

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

struct word_entry {
    uint64_t words[2]; /* the word, or its hash and where its size and bytes are in the arena */
    int64_t count;     /* 0 where no word is */
    uint32_t size;     /* of an inline word, or LONG_WORD */
    uint32_t number;   /* of the word, in the order of arrival */
};

struct word_table {
    struct word_entry *slots; /* a power of two, at most half full; NULL before the first word */
    void *memory;             /* where the slots are, each in one cache line */
    uint32_t mask;
    uint32_t size;
    uint64_t n_bytes; /* of all words */
    uint64_t seed;
    struct bytes_room arena;
    size_t arena_size;
};

static inline uint64_t
hash_inline(const uint64_t words[2], uint32_t size, uint64_t seed)
{
    uint64_t hash = (words[0] ^ seed) * UINT64_C(0xC2B2AE3D27D4EB4F);

    hash = (hash ^ hash >> 29 ^ words[1] ^ (uint64_t)size << 57) * UINT64_C(0x9E3779B185EBCA87);
    return hash ^ hash >> 32;
}

/* word_table_open -- make an empty table; 0, or -1 with an exception. */
static int
word_table_open(struct word_table *self)
{
    PyObject *const text = PyUnicode_FromString("words"); /* owned */
    const Py_hash_t hash = text == NULL ? -1 : PyObject_Hash(text);

    memset(self, 0, sizeof *self);
    Py_XDECREF(text);
    if (text == NULL) {
        return -1;
    }
    self->seed = (uint64_t)hash * UINT64_C(0x9E3779B185EBCA87);
    return 0;
}

static void
word_table_close(struct word_table *self)
{
    PyMem_Free(self->memory);
    PyMem_Free(self->arena.data);
    self->memory = NULL;
    self->slots = NULL;
    self->arena.data = NULL;
    self->size = 0;
}

/* long_word -- find the bytes of a long word. */
static inline const uint8_t *
long_word(const struct word_table *self, const struct word_entry *entry, size_t *size)
{
    const uint8_t *const place = self->arena.data + entry->words[1];

    memcpy(size, place, sizeof *size);
    return place + sizeof *size;
}

static inline uint64_t
hash_of_entry(const struct word_table *self, const struct word_entry *entry)
{
    return entry->size == LONG_WORD ? entry->words[0] : hash_inline(entry->words, entry->size, self->seed);
}

/* word_table_grow -- double the room; 0, or -1 with MemoryError. */
static int
word_table_grow(struct word_table *self)
{
    const uint32_t count = self->slots == NULL ? FIRST_WORD_SLOTS : 2 * (self->mask + 1);
    void *const memory = PyMem_Calloc((size_t)count * sizeof(struct word_entry) + CACHE_LINE_BYTES, 1);

    if (memory == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    struct word_entry *const slots = (struct word_entry *)(
        ((uintptr_t)memory + CACHE_LINE_BYTES - 1) & ~(uintptr_t)(CACHE_LINE_BYTES - 1));
    for (uint32_t i = 0; self->slots != NULL && i <= self->mask; i++) {
        if (self->slots[i].count != 0) {
            uint32_t at = (uint32_t)hash_of_entry(self, &self->slots[i]) & (count - 1);
            while (slots[at].count != 0) {
                at = (at + 1) & (count - 1);
            }
            slots[at] = self->slots[i];
        }
    }
    PyMem_Free(self->memory);
    self->memory = memory;
    self->slots = slots;
    self->mask = count - 1;
    return 0;
}

/* A word with its hash.  `data` is used if it does not fit `words`. */
struct hashed_word {
    uint64_t words[2];
    const uint8_t *data;
    size_t size;
    uint64_t hash;
};

/* word_table_prepare -- compute the hash of a word, and have the memory where it may be fetched. */
static inline void
word_table_prepare(const struct word_table *self, struct hashed_word *word)
{
    word->hash = word->size <= INLINE_BYTES ? hash_inline(word->words, (uint32_t)word->size, self->seed)
                                            : xxh64_tagged(NO_TAG, word->data, word->size, self->seed);
    if (self->slots != NULL) {
        PREFETCH(&self->slots[(uint32_t)word->hash & self->mask]);
    }
}

/* keep_long -- write a long word to the arena; 0, or -1 with MemoryError. */
static int
keep_long(struct word_table *self, const struct hashed_word *word, struct word_entry *entry)
{
    if (room_for(&self->arena, self->arena_size + sizeof word->size + word->size) < 0) {
        return -1;
    }
    entry->words[0] = word->hash;
    entry->words[1] = self->arena_size;
    entry->size = LONG_WORD;
    memcpy(self->arena.data + self->arena_size, &word->size, sizeof word->size);
    memcpy(self->arena.data + self->arena_size + sizeof word->size, word->data, word->size);
    self->arena_size += sizeof word->size + word->size;
    return 0;
}

static inline int
is_word_of(const struct word_table *self, const struct word_entry *entry, const struct hashed_word *word)
{
    size_t size = 0;

    if (word->size <= INLINE_BYTES) {
        return entry->words[0] == word->words[0] && entry->words[1] == word->words[1]
               && entry->size == (uint32_t)word->size;
    }
    if (entry->size != LONG_WORD || entry->words[0] != word->hash) {
        return 0;
    }
    const uint8_t *const data = long_word(self, entry, &size);
    return size == word->size && memcmp(data, word->data, size) == 0;
}

/* word_table_count -- count a word once more: 1 if it is new, 0 if not, -1 with MemoryError. */
static inline int
word_table_count(struct word_table *self, const struct hashed_word *word)
{
    if ((self->slots == NULL || 2 * self->size > self->mask) && word_table_grow(self) < 0) {
        return -1;
    }
    struct word_entry *entry = &self->slots[(uint32_t)word->hash & self->mask];
    while (entry->count != 0) {
        if (is_word_of(self, entry, word)) {
            entry->count++;
            return 0;
        }
        entry = entry == &self->slots[self->mask] ? self->slots : entry + 1;
    }
    if (word->size > INLINE_BYTES) {
        if (keep_long(self, word, entry) < 0) {
            return -1;
        }
    }
    else {
        entry->words[0] = word->words[0];
        entry->words[1] = word->words[1];
        entry->size = (uint32_t)word->size;
    }
    entry->count = 1;
    entry->number = self->size++;
    self->n_bytes += word->size;
    return 1;
}

/* text_of_entry -- new str of a word, or NULL. */
static inline PyObject *
text_of_entry(const struct word_table *self, const struct word_entry *entry)
{
    size_t size = entry->size;
    const uint8_t *const data
        = entry->size == LONG_WORD ? long_word(self, entry, &size) : (const uint8_t *)entry->words;

    return PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, "surrogatepass");
}

/* order_of_arrival -- new array of the slots of all words, or NULL with MemoryError; to be freed.
 *
 * Python objects that are made in this order lie in memory in this order, in which they are used. */
static uint32_t *
order_of_arrival(const struct word_table *self)
{
    uint32_t *const order = PyMem_Malloc(((size_t)self->size + 1) * sizeof *order);

    if (order == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (uint32_t i = 0; self->slots != NULL && i <= self->mask; i++) {
        if (self->slots[i].count != 0) {
            order[self->slots[i].number] = i;
        }
    }
    return order;
}

/* put_word -- put a word and its count into a list of tuples or a dict; 0, or -1 with an exception. */
static int
put_word(const struct word_table *self, const struct word_entry *entry, PyObject *taken)
{
    PyObject *const word = text_of_entry(self, entry);                                   /* owned */
    PyObject *const count = word == NULL ? NULL : PyLong_FromLongLong(entry->count);     /* owned */
    PyObject *pair = NULL;                                                               /* owned */
    int result = -1;

    if (count != NULL && PyDict_CheckExact(taken)) {
        result = PyDict_SetItem(taken, word, count);
    }
    else if (count != NULL && (pair = PyTuple_Pack(2, word, count)) != NULL) {
        PyList_SET_ITEM(taken, (Py_ssize_t)entry->number, pair); /* the list's from here on */
        result = 0;
    }
    Py_XDECREF(count);
    Py_XDECREF(word);
    return result;
}

/* word_table_take -- new list of (word, count), or dict, in the order of arrival, or NULL.
 *
 * The table is empty afterwards.  It stays as it is if this fails. */
static PyObject *
word_table_take(struct word_table *self, int as_dict)
{
    uint32_t *const order = order_of_arrival(self);
    PyObject *taken = NULL; /* owned */

    if (order != NULL) {
        taken = as_dict ? PyDict_New() : PyList_New((Py_ssize_t)self->size);
    }
    for (uint32_t i = 0; taken != NULL && i < self->size; i++) {
        if (put_word(self, &self->slots[order[i]], taken) < 0) {
            Py_CLEAR(taken);
        }
    }
    PyMem_Free(order);
    if (taken != NULL && self->size > 0) {
        memset(self->slots, 0, ((size_t)self->mask + 1) * sizeof *self->slots);
        self->size = 0;
        self->n_bytes = 0;
        self->arena_size = 0;
    }
    return taken;
}

#endif
