/* Dicts of groups, `{key: [value, ...]}`, and of folded values, `{key: value}`.
 *
 * This is the general way, right for every key.  Plain keys take the short cut of _plain.h first.
 * Every function adds its estimate of the bytes taken to *used. */

#ifndef MMGEVENT_GROUPS_H
#define MMGEVENT_GROUPS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_digest.h"
#include "_estimate.h"
#include "_twin.h"

/* find -- look a key up in a dict.
 *
 * *found  set to a new reference to its value, or NULL if the key is not there.
 *
 * Returns 0, or -1 with an exception. */
static int
find(PyObject *module, PyObject *table, PyObject *key, PyObject **found)
{
    *found = Py_XNewRef(PyDict_GetItemWithError(table, key));
    if (*found != NULL || !PyErr_Occurred()) {
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyObject *type = NULL, *error = NULL, *traceback = NULL; /* owned */
        PyErr_Fetch(&type, &error, &traceback);
        raise_by_twin(module, "_unhashable_error", key);
        if (PyErr_Occurred()) {
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(traceback);
        }
        else {
            PyErr_Restore(type, error, traceback);
        }
    }
    return -1;
}

static int
check_list(PyObject *values)
{
    if (PyList_CheckExact(values)) {
        return 0;
    }
    const char *name = Py_TYPE(values)->tp_name;
    const char *dot = strrchr(name, '.'); /* the name of a builtin class may have its module before it */
    PyErr_Format(PyExc_TypeError, "the values of a group must be a list, got %.200s", dot ? dot + 1 : name);
    return -1;
}

/* insert -- set table[key] = value for a new key. */
static int
insert(PyObject *table, PyObject *key, PyObject *value, int64_t *used)
{
    int64_t size = 0;

    if (estimate(key, &size) < 0) {
        return -1;
    }
    *used += ENTRY_BYTES + size;
    return PyDict_SetItem(table, key, value);
}

/* append_one -- append one value to the list of its key, which may be new. */
static int
append_one(
    PyObject *module, PyObject *groups, PyObject *key, PyObject *value, PyObject *previous, int64_t *used)
{
    PyObject *values = NULL; /* owned */
    int64_t size = 0;
    int result = -1;

    if (find(module, groups, key, &values) < 0) {
        return -1;
    }
    if (values == NULL) {
        values = PyList_New(1);
        if (values == NULL) {
            return -1;
        }
        PyList_SET_ITEM(values, 0, Py_NewRef(value));
        *used += LIST_BYTES;
        result = insert(groups, key, values, used);
    }
    else if (check_list(values) == 0) {
        result = PyList_Append(values, value);
    }
    Py_DECREF(values);
    if (result < 0 || estimate_value(value, previous, &size) < 0) {
        return -1;
    }
    *used += size;
    return 0;
}

enum { GROUP = 0, SUM = 1, COUNT = 2, MIN = 3, MAX = 4, FIRST = 5 }; /* GROUP is no fold */

/* combine -- new reference to the fold of `present` and `value`; COUNT adds counts. */
static PyObject *
combine(PyObject *present, PyObject *value, int op)
{
    int is_better = 0;

    if (op == SUM || op == COUNT) {
        return PyNumber_Add(present, value);
    }
    if (op == MIN || op == MAX) {
        is_better = PyObject_RichCompareBool(value, present, op == MIN ? Py_LT : Py_GT);
        if (is_better < 0) {
            return NULL;
        }
    }
    return Py_NewRef(is_better ? value : present);
}

/* Return whether a folded value counts as large as the value before it.
 *
 * That holds for the same object, for two ints and for two floats. */
static inline int
is_same_size(PyObject *present, PyObject *folded)
{
    return folded == present || (PyLong_CheckExact(present) && PyLong_CheckExact(folded))
           || (PyFloat_CheckExact(present) && PyFloat_CheckExact(folded));
}

/* fold_one -- fold one value into table[key]. */
static int
fold_one(PyObject *module, PyObject *table, PyObject *key, PyObject *value, int op, int64_t *used)
{
    PyObject *present = NULL; /* owned */
    PyObject *folded = NULL;  /* owned */
    int64_t before = 0, after = 0;
    int result = -1;

    if (find(module, table, key, &present) < 0) {
        return -1;
    }
    if (present == NULL) {
        result = insert(table, key, value, used);
        if (result == 0 && (result = estimate(value, &after)) == 0) {
            *used += after;
        }
        goto done;
    }
    folded = combine(present, value, op);
    if (folded == NULL) {
        goto done;
    }
    result = folded == present ? 0 : PyDict_SetItem(table, key, folded);
    if (result == 0 && !is_same_size(present, folded)) {
        if ((result = estimate(folded, &after)) == 0 && (result = estimate(present, &before)) == 0) {
            *used += after - before;
        }
    }
done:
    Py_XDECREF(folded);
    Py_XDECREF(present);
    return result;
}

/* put -- put one pair into a dict; 0, or -1 with an exception. */
static int
put(PyObject *module, PyObject *dict, PyObject *raw, PyObject *value, PyObject *previous, int op, int64_t *used)
{
    PyObject *key = unify_nan(module, raw); /* owned */
    int result = -1;

    if (key != NULL) {
        result = op == GROUP ? append_one(module, dict, key, value, previous, used)
                             : fold_one(module, dict, key, value, op, used);
        Py_DECREF(key);
    }
    return result;
}

#endif
