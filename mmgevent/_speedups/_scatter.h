/* Deal the entries of a dict out to partitions: the steps of scatter(). */

#ifndef MMGEVENT_SCATTER_H
#define MMGEVENT_SCATTER_H

#include <Python.h>
#include <stdint.h>

#include "_digest.h"

/* number_keys -- write the partition of each key and count the keys of each partition.
 *
 * keys     a list that no other code can reach.
 * numbers  an array of one number per key; filled.
 * sizes    an array of one size per partition, all 0; filled. */
static int
number_keys(
    PyObject *module, PyObject *keys, uint64_t count, uint64_t seed, uint32_t *numbers, Py_ssize_t *sizes,
    int *hashed)
{
    const int is_power = (count & (count - 1)) == 0; /* the usual case; a division would be half the work */

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(keys); i++) {
        uint64_t digest = 0;
        if (digest_key(module, PyList_GET_ITEM(keys, i), seed, &digest, hashed) < 0) {
            return -1;
        }
        numbers[i] = (uint32_t)(is_power ? digest & (count - 1) : digest % count);
        sizes[numbers[i]]++;
    }
    return 0;
}

/* make_parts -- new list of (keys, values), lists of sizes[p] empty slots; None where sizes[p] is 0. */
static PyObject *
make_parts(uint64_t count, const Py_ssize_t *sizes)
{
    PyObject *parts = PyList_New((Py_ssize_t)count); /* owned */

    for (Py_ssize_t p = 0; parts != NULL && p < (Py_ssize_t)count; p++) {
        PyObject *part = NULL; /* owned, then stolen */
        if (sizes[p] == 0) {
            part = Py_NewRef(Py_None);
        }
        else {
            part = Py_BuildValue("(NN)", PyList_New(sizes[p]), PyList_New(sizes[p]));
        }
        if (part == NULL) {
            Py_CLEAR(parts);
            break;
        }
        PyList_SET_ITEM(parts, p, part);
    }
    return parts;
}

/* deal -- move keys and values into the slots of their parts, in order.  It cannot fail and runs no user
 * code.
 *
 * sizes  slots left in each part; counted down to 0. */
static void
deal(PyObject *parts, PyObject *keys, PyObject *values, const uint32_t *numbers, Py_ssize_t *sizes)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(keys); i++) {
        PyObject *part = PyList_GET_ITEM(parts, numbers[i]);   /* borrowed */
        PyObject *part_keys = PyTuple_GET_ITEM(part, 0);       /* borrowed */
        PyObject *part_values = PyTuple_GET_ITEM(part, 1);     /* borrowed */
        const Py_ssize_t slot = PyList_GET_SIZE(part_keys) - sizes[numbers[i]]--;
        PyList_SET_ITEM(part_keys, slot, PyList_GET_ITEM(keys, i));
        PyList_SET_ITEM(part_values, slot, PyList_GET_ITEM(values, i));
        PyList_SET_ITEM(keys, i, NULL); /* moved */
        PyList_SET_ITEM(values, i, NULL);
    }
}

#endif
