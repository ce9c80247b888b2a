/* Which elements of a column repeat: short texts and bytes by content, all others by identity. */

#ifndef MMGEVENT_COLUMN_SHARE_H
#define MMGEVENT_COLUMN_SHARE_H

#include <Python.h>
#include <stdint.h>

#include "_column.h"
#include "_table.h"

/* The elements that occur in a column, each once, and the number of each place. */
struct sharing {
    PyObject **distinct; /* borrowed elements, in order of arrival */
    size_t size;
    uint32_t *numbers; /* of each place: an index of `distinct` */
};

static void
sharing_close(struct sharing *sharing)
{
    PyMem_Free(sharing->distinct);
    PyMem_Free(sharing->numbers);
    sharing->distinct = NULL;
    sharing->numbers = NULL;
}

/* Objects by their addresses. */
struct identities {
    PyObject **slots; /* NULL where empty */
    uint32_t *numbers;
    size_t mask;
    size_t size;
};

/* identities_open -- make room for `most` objects; 0, or -1 with MemoryError. */
static int
identities_open(struct identities *known, size_t most)
{
    size_t slots = 8;

    while (slots < 2 * most) {
        slots *= 2;
    }
    known->mask = slots - 1;
    known->size = 0;
    known->slots = PyMem_Calloc(slots, sizeof *known->slots);
    known->numbers = PyMem_Malloc(slots * sizeof *known->numbers);
    if (known->slots == NULL || known->numbers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void
identities_close(struct identities *known)
{
    PyMem_Free(known->slots);
    PyMem_Free(known->numbers);
}

/* identities_find -- the number of an object, which may be new. */
static inline uint32_t
identities_find(struct identities *known, PyObject *object)
{
    size_t at = (size_t)(((uint64_t)(uintptr_t)object * PRIME_1) >> 20) & known->mask;

    while (known->slots[at] != NULL && known->slots[at] != object) {
        at = (at + 1) & known->mask;
    }
    if (known->slots[at] == NULL) {
        known->slots[at] = object;
        known->numbers[at] = (uint32_t)known->size++;
    }
    return known->numbers[at];
}

/* is_repeated -- 1 if an object occurs twice, 0 if not, -1 with MemoryError.
 *
 * are_held  whether each place has a reference of its own.  Then an object with one reference is in one place. */
static int
is_repeated(PyObject *const *items, size_t count, int are_held)
{
    const Py_ssize_t least = are_held ? 2 : 0; /* references of an object that may occur twice */
    struct identities known = {0};
    size_t suspects = 0;
    int result = 0;

    for (size_t i = 0; i < count; i++) {
        suspects += Py_REFCNT(items[i]) >= least;
    }
    if (suspects < 2) {
        return 0;
    }
    if (count >= UINT32_MAX / 2) {
        return 1;
    }
    result = identities_open(&known, suspects);
    for (size_t i = 0, seen = 0; result == 0 && i < count; i++) {
        if (Py_REFCNT(items[i]) >= least) {
            identities_find(&known, items[i]);
            result = known.size < ++seen;
        }
    }
    identities_close(&known);
    return result;
}

/* is_long -- 1 if a str or bytes counts as one with others only if they are one object, 0 if not, -1 with
 * MemoryError. */
static inline int
is_long(PyObject *item)
{
    if (PyBytes_CheckExact(item)) {
        return PyBytes_GET_SIZE(item) > MAX_SHARED_SIZE;
    }
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(item) < 0) {
        return -1;
    }
#endif
    return PyUnicode_GET_LENGTH(item) > MAX_SHARED_SIZE;
}

/* note_shared -- note the number of the i-th place; 1, or 0 if too many elements are distinct. */
static inline int
note_shared(struct sharing *sharing, PyObject *item, size_t i, size_t number, size_t most)
{
    sharing->numbers[i] = (uint32_t)number;
    if (number < sharing->size) {
        return 1;
    }
    if (number == most || number >= GIVE_UP_SHARING_FROM + (i + 1) / 2) {
        return 0;
    }
    sharing->distinct[sharing->size++] = item;
    return 1;
}

/* find_same -- look for objects that occur again; as find_shared(). */
static int
find_same(PyObject *const *items, size_t count, struct sharing *sharing)
{
    struct identities known = {0};
    int result = identities_open(&known, count / 2 + 1) < 0 ? -1 : 1;

    for (size_t i = 0; result > 0 && i < count; i++) {
        result = note_shared(sharing, items[i], i, identities_find(&known, items[i]), count / 2);
    }
    identities_close(&known);
    return result;
}

/* find_equal -- look for equal strs or bytes; as find_shared(). */
static int
find_equal(PyObject *const *items, size_t count, struct sharing *sharing)
{
    struct table table = {0};
    size_t number = 0;
    int result = table_open(&table) < 0 ? -1 : 1;

    for (size_t i = 0; result > 0 && i < count; i++) {
        struct entry *entry = NULL; /* borrowed */
        if (i == 0 || items[i] != items[i - 1]) {
            result = is_long(items[i]);
            if (result > 0) {
                sharing->size = 0;
                result = find_same(items, count, sharing);
                break;
            }
            if (result < 0 || (result = table_find(&table, items[i], &entry)) <= 0) { /* 0: made to collide */
                break;
            }
            number = (size_t)(entry - table.entries);
        }
        result = note_shared(sharing, items[i], i, number, count / 2);
    }
    table_close(&table);
    return result;
}

/* find_shared -- look for elements that occur again.
 *
 * items    borrowed: strs, bytes or tuples.
 * sharing  set if there are at most half as many as places; call sharing_close() in any case.
 *
 * Returns 1 if there are, 0 if not, -1 with MemoryError. */
static int
find_shared(PyObject *const *items, size_t count, struct sharing *sharing)
{
    if (count < MIN_SHARING || count >= UINT32_MAX / 2) {
        return 0;
    }
    sharing->distinct = PyMem_Malloc(count / 2 * sizeof *sharing->distinct);
    sharing->numbers = PyMem_Malloc(count * sizeof *sharing->numbers);
    if (sharing->distinct == NULL || sharing->numbers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return PyTuple_CheckExact(items[0]) ? find_same(items, count, sharing)
                                        : find_equal(items, count, sharing);
}

#endif
