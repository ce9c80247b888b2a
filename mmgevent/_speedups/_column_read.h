/* Read a column back into a list: decode_column().
 *
 * The bytes may be anybody's.  Each length is compared with what is left before anything is made.  Each
 * element takes a byte at least, or a bit if it is one of a few texts that all places share.  So nothing is
 * read beyond the end, and a short column cannot become a long list. */

#ifndef MMGEVENT_COLUMN_READ_H
#define MMGEVENT_COLUMN_READ_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_column.h"

/* Every function that reads returns a new list of `count` elements, or NULL with ValueError or MemoryError. */
static PyObject *read_column(struct reader *reader, size_t count, int depth, int in_bits);

static PyObject *
read_ints(struct reader *reader, size_t count)
{
    struct packed packed;

    if (read_packed(reader, count, &packed) < 0) {
        return NULL;
    }
    PyObject *column = PyList_New((Py_ssize_t)count); /* owned */
    for (size_t i = 0; column != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLongLong((long long)packed_number(&packed, i)); /* owned, then stolen */
        if (number == NULL) {
            Py_CLEAR(column);
            break;
        }
        PyList_SET_ITEM(column, i, number);
    }
    return column;
}

static PyObject *
read_steps(struct reader *reader, size_t count)
{
    struct packed packed;
    uint64_t number = 0;

    if (read_word(reader, &number) < 0 || read_packed(reader, count - 1, &packed) < 0) {
        return NULL;
    }
    PyObject *column = PyList_New((Py_ssize_t)count); /* owned */
    for (size_t i = 0; column != NULL && i < count; i++) {
        if (i > 0) {
            number += packed_number(&packed, i - 1);
        }
        PyObject *element = PyLong_FromLongLong((long long)number); /* owned, then stolen */
        if (element == NULL) {
            Py_CLEAR(column);
            break;
        }
        PyList_SET_ITEM(column, i, element);
    }
    return column;
}

static PyObject *
read_floats(struct reader *reader, size_t count)
{
    if (count > left(reader) / WORD) {
        damaged();
        return NULL;
    }
    const uint8_t *at = read_bytes(reader, count * WORD);
    PyObject *column = PyList_New((Py_ssize_t)count); /* owned */
    for (size_t i = 0; column != NULL && i < count; i++) {
        const uint64_t bits = read64(at + i * WORD);
        double number;
        memcpy(&number, &bits, sizeof number);
        PyObject *element = PyFloat_FromDouble(number); /* owned, then stolen */
        if (element == NULL) {
            Py_CLEAR(column);
            break;
        }
        PyList_SET_ITEM(column, i, element);
    }
    return column;
}

static PyObject *
read_bools(struct reader *reader, size_t count)
{
    const uint8_t *at = read_bytes(reader, count);
    uint8_t most = 0;

    if (at == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        most |= at[i];
    }
    if (most > 1) {
        damaged();
        return NULL;
    }
    PyObject *column = PyList_New((Py_ssize_t)count); /* owned */
    for (size_t i = 0; column != NULL && i < count; i++) {
        PyList_SET_ITEM(column, i, Py_NewRef(at[i] ? Py_True : Py_False));
    }
    return column;
}

/* is_all_ascii -- whether all bytes are below 128. */
static int
is_all_ascii(const uint8_t *at, size_t size)
{
    uint64_t seen = 0;

    for (; size >= WORD; at += WORD, size -= WORD) {
        seen |= read64(at);
    }
    for (; size > 0; at++, size--) {
        seen |= *at;
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/* text_of -- new str of some UTF-8; the interpreter has the shortest ones already. */
static inline PyObject *
text_of(const uint8_t *at, size_t size, int ascii)
{
    if (ascii && size > 1) {
        PyObject *text = PyUnicode_New((Py_ssize_t)size, 127); /* owned */
        if (text != NULL) {
            memcpy(PyUnicode_1BYTE_DATA(text), at, size);
        }
        return text;
    }
    PyObject *text = PyUnicode_DecodeUTF8((const char *)at, (Py_ssize_t)size, "strict"); /* owned */
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        damaged();
    }
    return text;
}

static PyObject *
read_contents(struct reader *reader, size_t count, enum column_kind kind)
{
    struct packed sizes;
    size_t total = 0;

    if (read_packed(reader, count, &sizes) < 0 || packed_sizes(reader, &sizes, count, 1, &total) < 0) {
        return NULL;
    }
    const uint8_t *at = read_bytes(reader, total);
    const int ascii = kind == TEXT_COLUMN && is_all_ascii(at, total);
    PyObject *column = PyList_New((Py_ssize_t)count); /* owned */
    for (size_t i = 0; column != NULL && i < count; i++) {
        const size_t size = (size_t)packed_number(&sizes, i);
        PyObject *element = kind == TEXT_COLUMN
                                ? text_of(at, size, ascii)
                                : PyBytes_FromStringAndSize((const char *)at, (Py_ssize_t)size); /* owned, then stolen */
        if (element == NULL) {
            Py_CLEAR(column);
            break;
        }
        PyList_SET_ITEM(column, i, element);
        at += size;
    }
    return column;
}

static PyObject *
read_tuples(struct reader *reader, size_t count, int depth)
{
    PyObject *children[MAX_COLUMN_ARITY] = {NULL}; /* owned */
    PyObject *column = NULL;                       /* owned */
    uint8_t arity = 0;
    int result = read_byte(reader, &arity);

    if (result == 0 && (arity < 1 || arity > MAX_COLUMN_ARITY)) {
        result = damaged();
    }
    for (int k = 0; result == 0 && k < arity; k++) {
        children[k] = read_column(reader, count, depth + 1, 0);
        result = children[k] == NULL ? -1 : 0;
    }
    column = result < 0 ? NULL : PyList_New((Py_ssize_t)count);
    for (size_t i = 0; column != NULL && i < count; i++) {
        PyObject *element = PyTuple_New(arity); /* owned, then stolen */
        if (element == NULL) {
            Py_CLEAR(column);
            break;
        }
        for (int k = 0; k < arity; k++) {
            PyTuple_SET_ITEM(element, k, PyList_GET_ITEM(children[k], i)); /* moved */
            PyList_SET_ITEM(children[k], i, NULL);
        }
        PyList_SET_ITEM(column, i, element);
    }
    for (int k = 0; k < arity && k < MAX_COLUMN_ARITY; k++) {
        Py_XDECREF(children[k]);
    }
    return column;
}

static PyObject *
read_lists(struct reader *reader, size_t count, int depth)
{
    struct packed sizes;
    PyObject *elements = NULL; /* owned */
    PyObject *column = NULL;   /* owned */
    size_t total = 0;

    if (read_packed(reader, count, &sizes) < 0 || packed_sizes(reader, &sizes, count, 8, &total) < 0) {
        return NULL;
    }
    elements = read_column(reader, total, depth + 1, 1);
    column = elements == NULL ? NULL : PyList_New((Py_ssize_t)count);
    for (size_t i = 0, at = 0; column != NULL && i < count; i++) {
        const size_t size = (size_t)packed_number(&sizes, i);
        PyObject *list = PyList_New((Py_ssize_t)size); /* owned, then stolen */
        if (list == NULL) {
            Py_CLEAR(column);
            break;
        }
        for (size_t k = 0; k < size; k++, at++) {
            PyList_SET_ITEM(list, k, PyList_GET_ITEM(elements, at)); /* moved */
            PyList_SET_ITEM(elements, at, NULL);
        }
        PyList_SET_ITEM(column, i, list);
    }
    Py_XDECREF(elements);
    return column;
}

/* may_be_shared -- whether the next column is of a kind of which equal elements are written once. */
static int
may_be_shared(const struct reader *reader)
{
    return left(reader) > 0
           && (*reader->at == TEXT_COLUMN || *reader->at == BYTES_COLUMN || *reader->at == TUPLE_COLUMN);
}

static PyObject *
read_shared(struct reader *reader, size_t count, int depth, int in_bits)
{
    uint64_t size = 0;
    unsigned bits = 0;
    PyObject *distinct = NULL; /* owned */
    PyObject *column = NULL;   /* owned */

    if (read_word(reader, &size) < 0) {
        return NULL;
    }
    if (size > count || !may_be_shared(reader)) {
        damaged();
        return NULL;
    }
    const int few = in_bits && *reader->at != TUPLE_COLUMN;
    distinct = read_column(reader, (size_t)size, depth + 1, 1);
    const uint8_t *at = distinct == NULL ? NULL : read_bits(reader, count, few, &bits);
    column = at == NULL ? NULL : PyList_New((Py_ssize_t)count);
    for (size_t i = 0; column != NULL && i < count; i++) {
        const uint32_t number = bits_number(at, bits, i);
        if (number >= size) {
            damaged();
            Py_CLEAR(column);
            break;
        }
        PyList_SET_ITEM(column, i, Py_NewRef(PyList_GET_ITEM(distinct, number)));
    }
    Py_XDECREF(distinct);
    return column;
}

static PyObject *
read_column(struct reader *reader, size_t count, int depth, int in_bits)
{
    uint8_t kind = 0;

    if (read_byte(reader, &kind) < 0) {
        return NULL;
    }
    if (depth > MAX_COLUMN_DEPTH || (kind == NOTHING_COLUMN) != (count == 0)) {
        damaged();
        return NULL;
    }
    switch (kind) {
    case NOTHING_COLUMN:
        return PyList_New(0);
    case INT_COLUMN:
        return read_ints(reader, count);
    case STEP_COLUMN:
        return read_steps(reader, count);
    case FLOAT_COLUMN:
        return read_floats(reader, count);
    case BOOL_COLUMN:
        return read_bools(reader, count);
    case TEXT_COLUMN:
    case BYTES_COLUMN:
        return read_contents(reader, count, kind);
    case TUPLE_COLUMN:
        return read_tuples(reader, count, depth);
    case LIST_COLUMN:
        return read_lists(reader, count, depth);
    case SHARED_COLUMN:
        return read_shared(reader, count, depth, in_bits);
    default:
        damaged();
        return NULL;
    }
}

/* core_decode_column -- decode_column(data, count). */
static PyObject *
core_decode_column(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    Py_ssize_t count = 0;
    PyObject *column = NULL; /* owned */

    if (!PyArg_ParseTuple(args, "y*n", &data, &count)) {
        return NULL;
    }
    struct reader reader = {data.buf, (const uint8_t *)data.buf + data.len};
    if (count < 0) {
        damaged();
    }
    else {
        column = read_column(&reader, (size_t)count, 1, 1);
    }
    if (column != NULL && left(&reader) > 0) {
        damaged();
        Py_CLEAR(column);
    }
    PyBuffer_Release(&data);
    return column;
}

#endif
