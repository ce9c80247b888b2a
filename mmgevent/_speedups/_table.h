/* A hash table of plain keys, in the order in which they arrived.
 *
 * group() and fold() fill it before they fill a dict.  For each word that is counted, a dict computes
 * its own hash and touches four cache lines: slot, entry, key, list of values.  Here a short key and
 * its values (the same object n times, or a sum) are in the entry itself.  That takes a third of the
 * time of a dict of lists.
 *
 * Plain keys are strs, bytes, and ints of 64 bits, of exactly these classes.  They are equal if their contents
 * are equal, and no user code runs to compare them.  The table refuses any other key, so a plain key never
 * meets one that equals it.  It also refuses keys that were made to collide.  The caller then pours the
 * table into a dict, which is right for every key.
 *
 * The caller decides what `value` and `count` mean.  The table owns both objects of an entry. */

#ifndef MMGEVENT_TABLE_H
#define MMGEVENT_TABLE_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#define SHORT_KEY 16               /* longest ASCII str that fits an entry, bytes */
#define LONG_KEY (SHORT_KEY + 1)   /* any other str: words are a hash and the length */
#define INT_KEY (SHORT_KEY + 2)    /* words[0] is the number */
#define BYTES_KEY (SHORT_KEY + 3)  /* bytes: words are a hash and the length */
#define NO_KEY_KIND (SHORT_KEY + 4)
#define MAX_PROBES 128             /* slots that are looked at for one key; honest keys need a tenth of that */
#define FIRST_SLOTS 1024
#define MAX_ENTRIES (UINT32_C(1) << 30)

struct key_code {
    uint64_t words[2]; /* the key itself if it is short or an int, else a hash and the length */
    uint32_t hash;
    uint32_t kind; /* length of a short ASCII str, or one of the above */
};

struct entry {
    PyObject *key;   /* owned; NULL for an int in a table that drops ints */
    PyObject *value; /* owned, may be NULL */
    int64_t count;
    struct key_code code;
};

struct table {
    struct entry *entries; /* in order of arrival */
    uint32_t size;
    uint32_t room;
    uint32_t *slots; /* number of an entry + 1, 0 where empty; a power of two, at most half full */
    uint32_t mask;
    int drops_ints; /* whether entries of int keys have no object: the code says which int it is */
};

static inline uint64_t
load64(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof word); /* hashes stay in this process, so byte order does not matter */
    return word;
}

static inline uint32_t
load32(const uint8_t *p)
{
    uint32_t word;

    memcpy(&word, p, sizeof word);
    return word;
}

static inline uint32_t
scramble(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t hash = (a ^ c * UINT64_C(0x9E3779B185EBCA87)) * UINT64_C(0xC2B2AE3D27D4EB4F);

    hash = (hash ^ hash >> 29 ^ b) * UINT64_C(0x165667B19E3779F9);
    return (uint32_t)(hash >> 32);
}

/* code_short -- two words that no other ASCII str of the same length has.  They overlap if it is shorter
 * than both. */
static inline void
code_short(const uint8_t *data, size_t size, uint64_t words[2])
{
    words[1] = 0;
    if (size >= 8) {
        words[0] = load64(data);
        words[1] = load64(data + size - 8);
    }
    else if (size >= 4) {
        words[0] = load32(data) | (uint64_t)load32(data + size - 4) << 32;
    }
    else if (size > 0) {
        words[0] = data[0] | (uint64_t)data[size / 2] << 8 | (uint64_t)data[size - 1] << 16;
    }
    else {
        words[0] = 0;
    }
}

static uint64_t
hash_bytes(const uint8_t *data, size_t size)
{
    uint64_t hash = size;

    for (; size >= 8; data += 8, size -= 8) {
        hash = (hash ^ load64(data)) * UINT64_C(0x9E3779B185EBCA87);
        hash ^= hash >> 32;
    }
    for (; size > 0; data++, size--) {
        hash = (hash ^ *data) * UINT64_C(0xC2B2AE3D27D4EB4F);
        hash ^= hash >> 32;
    }
    return hash;
}

/* code_int -- fill in the code of an int of 64 bits. */
static inline void
code_int(int64_t number, struct key_code *code)
{
    code->kind = INT_KEY;
    code->words[0] = (uint64_t)number;
    code->words[1] = 0;
    code->hash = scramble(code->words[0], code->words[1], code->kind);
}

/* code_key -- fill in the code of a plain key; `kind` is NO_KEY_KIND for any other key. */
static inline void
code_key(PyObject *key, struct key_code *code)
{
    code->kind = NO_KEY_KIND;
    if (PyUnicode_CheckExact(key)) {
#if PY_VERSION_HEX < 0x030C0000
        if (!PyUnicode_IS_READY(key)) {
            return;
        }
#endif
        const size_t length = (size_t)PyUnicode_GET_LENGTH(key);
        if (PyUnicode_IS_ASCII(key) && length <= SHORT_KEY) { /* compact or not: before Python 3.12 both exist and are equal */
            code->kind = (uint32_t)length;
            code_short(PyUnicode_1BYTE_DATA(key), length, code->words);
        }
        else {
            code->kind = LONG_KEY;
            code->words[0] = hash_bytes(PyUnicode_DATA(key), length * (size_t)PyUnicode_KIND(key));
            code->words[1] = length;
        }
    }
    else if (PyLong_CheckExact(key)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(key, &overflow);
        if (overflow) {
            return;
        }
        code_int(number, code);
        return;
    }
    else if (PyBytes_CheckExact(key)) {
        const size_t length = (size_t)PyBytes_GET_SIZE(key);
        code->kind = BYTES_KEY;
        code->words[0] = hash_bytes((const uint8_t *)PyBytes_AS_STRING(key), length);
        code->words[1] = length;
    }
    else {
        return;
    }
    code->hash = scramble(code->words[0], code->words[1], code->kind);
}

/* Return whether two strs of one length have the same characters. */
static inline int
is_same_text(PyObject *one, PyObject *other)
{
    return PyUnicode_KIND(one) == PyUnicode_KIND(other)
           && memcmp(
                  PyUnicode_DATA(one), PyUnicode_DATA(other),
                  (size_t)PyUnicode_GET_LENGTH(one) * (size_t)PyUnicode_KIND(one))
                  == 0;
}

static inline int
is_entry_of(const struct entry *entry, PyObject *key, const struct key_code *code)
{
    if (entry->code.words[0] != code->words[0] || entry->code.words[1] != code->words[1]
        || entry->code.kind != code->kind) {
        return 0;
    }
    if (code->kind == BYTES_KEY) {
        return memcmp(PyBytes_AS_STRING(entry->key), PyBytes_AS_STRING(key), (size_t)code->words[1]) == 0;
    }
    return code->kind != LONG_KEY || is_same_text(entry->key, key);
}

/* table_open -- make an empty table; 0, or -1 with MemoryError.  Call table_close() in either case. */
static int
table_open(struct table *table)
{
    table->size = 0;
    table->room = FIRST_SLOTS / 2;
    table->mask = FIRST_SLOTS - 1;
    table->entries = PyMem_Malloc(table->room * sizeof *table->entries);
    table->slots = PyMem_Calloc(FIRST_SLOTS, sizeof *table->slots);
    if (table->entries == NULL || table->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* table_close -- release everything.  Releasing keys and values may run user code. */
static void
table_close(struct table *table)
{
    struct entry *entries = table->entries;

    for (uint32_t i = 0; i < table->size; i++) {
        Py_XDECREF(entries[i].key);
        Py_XDECREF(entries[i].value);
    }
    PyMem_Free(entries);
    PyMem_Free(table->slots);
    table->entries = NULL;
    table->slots = NULL;
    table->size = 0;
}

/* table_grow -- double the room for entries; 0, or -1 with MemoryError. */
static int
table_grow(struct table *table)
{
    const size_t slot_count = 2 * ((size_t)table->mask + 1);
    struct entry *entries = NULL;
    uint32_t *slots = NULL;

    entries = PyMem_Realloc(table->entries, slot_count / 2 * sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    table->entries = entries;
    slots = PyMem_Calloc(slot_count, sizeof *slots);
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(table->slots);
    table->slots = slots;
    table->mask = (uint32_t)(slot_count - 1);
    table->room = (uint32_t)(slot_count / 2);
    for (uint32_t i = 0; i < table->size; i++) {
        uint32_t at = entries[i].code.hash & table->mask;
        while (slots[at] != 0) {
            at = (at + 1) & table->mask;
        }
        slots[at] = i + 1;
    }
    return 0;
}

/* table_look_up -- the entry of a code, or NULL.
 *
 * key      borrowed; NULL if the code alone says which key it is.
 * *at      the slot of the entry, or where a new one belongs.
 * *probes  set to the slots that were looked at; more than MAX_PROBES: the table cannot hold this key. */
static inline struct entry *
table_look_up(const struct table *table, PyObject *key, const struct key_code *code, uint32_t *at, int *probes)
{
    *at = code->hash & table->mask;
    for (*probes = 0; table->slots[*at] != 0; ++*probes) {
        struct entry *entry = &table->entries[table->slots[*at] - 1];
        if (is_entry_of(entry, key, code)) {
            return entry;
        }
        if (*probes == MAX_PROBES) {
            ++*probes;
            return NULL;
        }
        *at = (*at + 1) & table->mask;
    }
    return NULL;
}

/* table_find_code -- find the entry of a key whose code is known, or make it; as table_find().
 *
 * key  borrowed; NULL for an int, if the table drops ints. */
static inline int
table_find_code(struct table *table, PyObject *key, const struct key_code *code, struct entry **entry)
{
    uint32_t at = 0;
    int probes = 0;

    *entry = table_look_up(table, key, code, &at, &probes);
    if (*entry != NULL) {
        return 1;
    }
    if (probes > MAX_PROBES || (table->size == table->room && table->size >= MAX_ENTRIES)) {
        return 0;
    }
    if (table->size == table->room) {
        return table_grow(table) < 0 ? -1 : table_find_code(table, key, code, entry);
    }
    *entry = &table->entries[table->size++];
    (*entry)->key = code->kind == INT_KEY && table->drops_ints ? NULL : Py_NewRef(key);
    (*entry)->value = NULL;
    (*entry)->count = 0;
    (*entry)->code = *code;
    table->slots[at] = table->size;
    return 1;
}

/* table_find -- find the entry of a key, or make it.
 *
 * key      borrowed; a new entry holds a reference of its own.
 * *entry   borrowed from the table until the next call; a new entry has value NULL and count 0.
 *
 * Returns 1, or 0 if the table cannot hold this key, or -1 with MemoryError. */
static inline int
table_find(struct table *table, PyObject *key, struct entry **entry)
{
    struct key_code code;

    code_key(key, &code);
    return code.kind == NO_KEY_KIND ? 0 : table_find_code(table, key, &code, entry);
}

/* entry_key -- new reference to the key of an entry, or NULL with MemoryError. */
static PyObject *
entry_key(const struct entry *entry)
{
    return entry->key != NULL ? Py_NewRef(entry->key) : PyLong_FromLongLong((long long)entry->code.words[0]);
}

#endif
