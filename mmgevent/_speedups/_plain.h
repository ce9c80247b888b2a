/* Groups and folded values in a table of plain keys: the short cut beside _groups.h.
 *
 * At the end, or at the first key that the table cannot hold, pour() moves all entries into a dict. */

#ifndef MMGEVENT_PLAIN_H
#define MMGEVENT_PLAIN_H

#include <Python.h>
#include <stdint.h>

#include "_estimate.h"
#include "_groups.h"
#include "_table.h"

#define LISTED (-1) /* count of an entry whose `value` is a list of values */

/* repeat -- new list of n references to one object. */
static PyObject *
repeat(PyObject *value, int64_t n)
{
    PyObject *values = PyList_New((Py_ssize_t)n); /* owned */

    for (Py_ssize_t i = 0; values != NULL && i < (Py_ssize_t)n; i++) {
        PyList_SET_ITEM(values, i, Py_NewRef(value));
    }
    return values;
}

/* group_plain -- append one value to the entry of its key.
 *
 * An entry holds the same `value` `count` times, or a list of values (LISTED).
 *
 * Returns 1, or 0 if the table cannot hold this key, or -1 with an exception. */
static int
group_plain(struct table *table, PyObject *key, PyObject *value, PyObject *previous, int64_t *used)
{
    struct entry *entry = NULL; /* borrowed */
    int64_t size = 0;
    const int found = table_find(table, key, &entry);

    if (found <= 0) {
        return found;
    }
    if (entry->value == value && entry->count > 0) {
        entry->count++;
    }
    else if (entry->value == NULL) {
        entry->value = Py_NewRef(value);
        entry->count = 1;
        *used += ENTRY_BYTES + LIST_BYTES + estimate_known(key, 0);
    }
    else {
        if (entry->count != LISTED) {
            PyObject *values = repeat(entry->value, entry->count); /* owned, then the entry's */
            if (values == NULL) {
                return -1;
            }
            Py_SETREF(entry->value, values);
            entry->count = LISTED;
        }
        if (PyList_Append(entry->value, value) < 0) {
            return -1;
        }
    }
    if (estimate_value(value, previous, &size) < 0) {
        return -1;
    }
    *used += size;
    return 1;
}

/* add_plain -- add an int to the sum of ints in an entry.
 *
 * Returns 1, or 0 if the entry holds no such sum or the new sum needs more than 64 bits. */
static inline int
add_plain(struct entry *entry, PyObject *value)
{
    int overflow = 0;

    if (entry->value != NULL || !PyLong_CheckExact(value)) {
        return 0;
    }
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow || (number > 0 && entry->count > INT64_MAX - number)
        || (number < 0 && entry->count < INT64_MIN - number)) {
        return 0;
    }
    entry->count += number;
    return 1;
}

/* fold_plain -- fold one value into the entry of its key.
 *
 * An entry holds the folded `value`.  While `value` is NULL, `count` is a sum of ints.
 *
 * Returns as group_plain(). */
static int
fold_plain(struct table *table, PyObject *key, PyObject *value, int op, int64_t *used)
{
    const int adds = op == SUM || op == COUNT;
    const uint32_t size_before = table->size;
    struct entry *entry = NULL; /* borrowed; user code cannot reach the table */
    int64_t before = 0, after = 0;
    const int found = table_find(table, key, &entry);

    if (found <= 0) {
        return found;
    }
    if (table->size > size_before) {
        if (!(adds && add_plain(entry, value))) {
            entry->value = Py_NewRef(value);
        }
        if (estimate(value, &after) < 0) {
            return -1;
        }
        *used += ENTRY_BYTES + estimate_known(key, 0) + after;
        return 1;
    }
    if (adds && add_plain(entry, value)) {
        return 1;
    }
    if (entry->value == NULL) {
        entry->value = PyLong_FromLongLong(entry->count);
        if (entry->value == NULL) {
            return -1;
        }
    }
    PyObject *folded = combine(entry->value, value, op); /* owned, then the entry's */
    if (folded == NULL) {
        return -1;
    }
    int result = 1;
    if (!is_same_size(entry->value, folded)) {
        if (estimate(folded, &after) < 0 || estimate(entry->value, &before) < 0) {
            result = -1;
        }
        *used += after - before;
    }
    Py_SETREF(entry->value, folded);
    return result;
}

/* pour -- move the entries of a table into an empty dict, in order, and close the table.
 *
 * Returns 0, or -1 with MemoryError.  An exception that is already set stays set. */
static int
pour(struct table *table, PyObject *dict, int op)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL; /* owned */
    int result = 0;

    PyErr_Fetch(&type, &error, &traceback);
    for (uint32_t i = 0; result == 0 && i < table->size; i++) {
        struct entry *entry = &table->entries[i];
        PyObject *key = entry_key(entry); /* owned */
        PyObject *value = NULL;           /* owned */
        if (key == NULL) {
            result = -1;
            break;
        }
        if (op != GROUP) {
            value = entry->value != NULL ? Py_NewRef(entry->value) : PyLong_FromLongLong(entry->count);
        }
        else if (entry->value == NULL) {
            Py_DECREF(key);
            continue; /* storing the first value of this key failed */
        }
        else {
            value = entry->count == LISTED ? Py_NewRef(entry->value) : repeat(entry->value, entry->count);
        }
        result = value == NULL ? -1 : PyDict_SetItem(dict, key, value);
        Py_XDECREF(value);
        Py_DECREF(key);
        Py_CLEAR(entry->key); /* free memory entry by entry */
        Py_CLEAR(entry->value);
    }
    table_close(table);
    if (type != NULL) {
        PyErr_Restore(type, error, traceback);
    }
    return result;
}

#endif
