/* Estimate the memory of keys and values; _estimate.estimate_bytes() has the formula. */

#ifndef MMGEVENT_ESTIMATE_H
#define MMGEVENT_ESTIMATE_H

#include <Python.h>
#include <stdint.h>

#define ENTRY_BYTES 100   /* a dict entry, with its share of free room */
#define LIST_BYTES 72     /* an empty list and the room of its first items */
#define POINTER_BYTES 8   /* one item of a list */
#define SAMPLED_ITEMS 16  /* items that are looked at in a container */
#define SAMPLED_DEPTH 2   /* levels of containers whose items are looked at */
#define MAX_BYTES ((int64_t)1 << 40) /* largest estimate: sums of estimates fit 64 bits */

static int64_t estimate_inside(PyObject *thing, int depth);

/* estimate_container -- the estimate of a container, given the estimates of its first items. */
static int64_t
estimate_container(int64_t base, int64_t slot, int64_t length, int64_t sample)
{
    if (length > SAMPLED_ITEMS) {
        sample /= SAMPLED_ITEMS;
        sample = sample > MAX_BYTES / length ? MAX_BYTES : sample * length;
    }
    const int64_t size = length > MAX_BYTES / slot ? MAX_BYTES : base + slot * length + sample;
    return size < MAX_BYTES ? size : MAX_BYTES;
}

static int64_t
estimate_sequence(PyObject *thing, int depth)
{
    const int is_tuple = PyTuple_Check(thing);
    const Py_ssize_t length = is_tuple ? PyTuple_GET_SIZE(thing) : PyList_GET_SIZE(thing);
    int64_t sample = 0;

    if (depth == SAMPLED_DEPTH) {
        return 56 + POINTER_BYTES * (int64_t)length;
    }
    for (Py_ssize_t i = 0; i < length && i < SAMPLED_ITEMS; i++) {
        PyObject *item = is_tuple ? PyTuple_GET_ITEM(thing, i) : PyList_GET_ITEM(thing, i); /* borrowed */
        sample += estimate_inside(item, depth + 1);
    }
    return estimate_container(56, POINTER_BYTES, length, sample);
}

static int64_t
estimate_dict(PyObject *thing, int depth)
{
    const Py_ssize_t length = PyDict_GET_SIZE(thing);
    int64_t sample = 0;
    Py_ssize_t position = 0;
    PyObject *key = NULL;   /* borrowed */
    PyObject *value = NULL; /* borrowed */

    if (depth == SAMPLED_DEPTH) {
        return 216 + ENTRY_BYTES * (int64_t)length;
    }
    for (int i = 0; i < SAMPLED_ITEMS && PyDict_Next(thing, &position, &key, &value); i++) {
        sample += estimate_inside(key, depth + 1) + estimate_inside(value, depth + 1);
    }
    return estimate_container(216, ENTRY_BYTES, length, sample);
}

/* estimate_known -- the estimate of a thing of a builtin class, -1 for any other.  Runs no user code. */
static int64_t
estimate_known(PyObject *thing, int depth)
{
    if (PyLong_CheckExact(thing)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(thing, &overflow);
        if (overflow) {
            return -1;
        }
        return -5 <= number && number <= 256 ? 0 : 32;
    }
    if (PyUnicode_Check(thing)) {
#if PY_VERSION_HEX < 0x030C0000
        if (PyUnicode_READY(thing) < 0) {
            PyErr_Clear(); /* no memory to make it ready: count it as empty, hashing it will fail */
            return 56;
        }
#endif
        return 56 + (int64_t)PyUnicode_GET_LENGTH(thing) * (PyUnicode_IS_ASCII(thing) ? 1 : 4);
    }
    if (thing == Py_None || PyBool_Check(thing)) {
        return 0;
    }
    if (PyFloat_CheckExact(thing)) {
        return 24;
    }
    if (PyBytes_Check(thing)) {
        return 40 + (int64_t)PyBytes_GET_SIZE(thing);
    }
    if (PyTuple_Check(thing) || PyList_Check(thing)) {
        return estimate_sequence(thing, depth);
    }
    if (PyDict_Check(thing)) {
        return estimate_dict(thing, depth);
    }
    if (PyByteArray_Check(thing)) {
        return 40 + (int64_t)PyByteArray_GET_SIZE(thing);
    }
    if (PyAnySet_Check(thing)) {
        return 216 + 72 * (int64_t)PySet_GET_SIZE(thing);
    }
    return -1;
}

static int64_t
estimate_inside(PyObject *thing, int depth)
{
    const int64_t size = estimate_known(thing, depth);

    return size < 0 ? 64 : size;
}

/* estimate -- set *size to the estimate of one key or value.
 *
 * Returns 0, or -1 with an exception of its __sizeof__. */
static int
estimate(PyObject *thing, int64_t *size)
{
    *size = estimate_known(thing, 0);
    if (*size >= 0) {
        return 0;
    }
    PyObject *getsizeof = Py_XNewRef(PySys_GetObject("getsizeof")); /* owned */
    if (getsizeof == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "lost sys.getsizeof");
        return -1;
    }
    PyObject *answer = PyObject_CallOneArg(getsizeof, thing); /* owned */
    Py_DECREF(getsizeof);
    if (answer == NULL) {
        return -1;
    }
    int overflow = 0;
    *size = PyLong_AsLongLongAndOverflow(answer, &overflow);
    Py_DECREF(answer);
    if (*size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow || *size > MAX_BYTES) {
        *size = MAX_BYTES;
    }
    return 0;
}

/* estimate_value -- set *size to the estimate of one more value of a list.
 *
 * If it is the very object of the previous value, only its pointer counts. */
static int
estimate_value(PyObject *value, PyObject *previous, int64_t *size)
{
    *size = 0;
    if (value != previous && estimate(value, size) < 0) {
        return -1;
    }
    *size += POINTER_BYTES;
    return 0;
}

#endif
