/* Write a list as a column: encode_column().
 *
 * No user code runs here: objects of other classes than the plain ones are only looked at.  So all elements
 * are borrowed from the list for the whole call. */

#ifndef MMGEVENT_COLUMN_WRITE_H
#define MMGEVENT_COLUMN_WRITE_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_column.h"
#include "_column_share.h"
#include "_digest.h"

/* Where a column is. */
struct place {
    int depth;   /* 1 for the outermost column */
    int in_bits; /* whether its elements may take less than a byte */
};

/* Every function that writes returns 1, or 0 if an element is not plain, or -1 with MemoryError. */
static int write_column(struct writer *writer, PyObject *const *items, size_t count, struct place place);

/* Numbers to be packed, and their bounds. */
struct numbers {
    int64_t *all; /* owned */
    int64_t least;
    int64_t most;
};

/* numbers_open -- make room for `count` numbers; 0, or -1 with MemoryError. */
static int
numbers_open(struct numbers *numbers, size_t count)
{
    numbers->least = INT64_MAX;
    numbers->most = INT64_MIN;
    numbers->all = PyMem_Malloc((count + !count) * sizeof *numbers->all);
    if (numbers->all == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static inline void
numbers_set(struct numbers *numbers, size_t i, int64_t number)
{
    numbers->all[i] = number;
    numbers->least = number < numbers->least ? number : numbers->least;
    numbers->most = number > numbers->most ? number : numbers->most;
}

static int
write_numbers(struct writer *writer, const struct numbers *numbers, size_t count)
{
    return write_packed(writer, numbers->all, count, numbers->least, numbers->most) < 0 ? -1 : 1;
}

/* kind_of -- the kind of column that elements of this class make, NO_COLUMN if they are not of one. */
static enum column_kind
kind_of(PyObject *const *items, size_t count)
{
    if (count == 0) {
        return NOTHING_COLUMN;
    }
    const PyTypeObject *cls = Py_TYPE(items[0]);
    for (size_t i = 1; i < count; i++) {
        if (Py_TYPE(items[i]) != cls) {
            return NO_COLUMN;
        }
    }
    return cls == &PyUnicode_Type ? TEXT_COLUMN
           : cls == &PyLong_Type  ? INT_COLUMN
           : cls == &PyTuple_Type ? TUPLE_COLUMN
           : cls == &PyList_Type  ? LIST_COLUMN
           : cls == &PyFloat_Type ? FLOAT_COLUMN
           : cls == &PyBytes_Type ? BYTES_COLUMN
           : cls == &PyBool_Type  ? BOOL_COLUMN
                                  : NO_COLUMN;
}

/* are_steps_narrow -- whether the differences of numbers are worth being written instead of them.
 *
 * steps  bounds are set; of `all` nothing is read. */
static int
are_steps_narrow(const struct numbers *numbers, size_t count, struct numbers *steps)
{
    if (width_of((uint64_t)numbers->most - (uint64_t)numbers->least) == 1) {
        return 0;
    }
    for (size_t i = 1; i < count; i++) {
        const int64_t before = numbers->all[i - 1], now = numbers->all[i];
        const int64_t step = (int64_t)((uint64_t)now - (uint64_t)before);
        if ((step < 0) != (now < before)) { /* more than 64 bits */
            return 0;
        }
        steps->least = step < steps->least ? step : steps->least;
        steps->most = step > steps->most ? step : steps->most;
    }
    const unsigned wide = width_of((uint64_t)numbers->most - (uint64_t)numbers->least);
    const unsigned narrow = width_of((uint64_t)steps->most - (uint64_t)steps->least);
    return count > 1 && narrow < wide && (wide - narrow) * count > WORD;
}

static int
write_ints(struct writer *writer, PyObject *const *items, size_t count)
{
    struct numbers numbers, steps = {NULL, INT64_MAX, INT64_MIN};
    int result = 0;

    if (numbers_open(&numbers, count) < 0) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(items[i], &overflow);
        if (overflow) {
            goto done;
        }
        numbers_set(&numbers, i, number);
    }
    if (!are_steps_narrow(&numbers, count, &steps)) {
        result = write_byte(writer, INT_COLUMN) < 0 ? -1 : write_numbers(writer, &numbers, count);
        goto done;
    }
    result = -1;
    if (write_byte(writer, STEP_COLUMN) == 0 && write_word(writer, (uint64_t)numbers.all[0]) == 0) {
        for (size_t i = count - 1; i > 0; i--) {
            numbers.all[i] -= numbers.all[i - 1];
        }
        steps.all = numbers.all + 1;
        result = write_numbers(writer, &steps, count - 1);
    }
done:
    PyMem_Free(numbers.all);
    return result;
}

static int
write_floats(struct writer *writer, PyObject *const *items, size_t count)
{
    uint8_t *at = write_byte(writer, FLOAT_COLUMN) < 0 ? NULL : writer_take(writer, count * WORD);

    if (at == NULL) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const double number = PyFloat_AS_DOUBLE(items[i]);
        uint64_t bits;
        memcpy(&bits, &number, sizeof bits);
        write64(at + i * WORD, bits);
    }
    return 1;
}

static int
write_bools(struct writer *writer, PyObject *const *items, size_t count)
{
    uint8_t *at = write_byte(writer, BOOL_COLUMN) < 0 ? NULL : writer_take(writer, count);

    if (at == NULL) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        at[i] = items[i] == Py_True;
    }
    return 1;
}

/* text_size -- bytes of a str in UTF-8, or -1 if it has lone surrogates, -2 with MemoryError. */
static int64_t
text_size(PyObject *text)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        return -2;
    }
#endif
    const Py_ssize_t length = PyUnicode_GET_LENGTH(text);

    if (PyUnicode_IS_ASCII(text)) {
        return length;
    }
    const int kind = PyUnicode_KIND(text);
    const void *chars = PyUnicode_DATA(text);
    int64_t size = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        const Py_UCS4 c = PyUnicode_READ(kind, chars, i);
        if (c >= 0xD800 && c < 0xE000) {
            return -1;
        }
        size += c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    }
    return size;
}

/* write_text -- write a str in UTF-8 at `at`; returns the end. */
static uint8_t *
write_text(uint8_t *at, PyObject *text)
{
    const Py_ssize_t length = PyUnicode_GET_LENGTH(text);

    if (PyUnicode_IS_ASCII(text)) {
        memcpy(at, PyUnicode_1BYTE_DATA(text), (size_t)length);
        return at + length;
    }
    const int kind = PyUnicode_KIND(text);
    const void *chars = PyUnicode_DATA(text);
    for (Py_ssize_t i = 0; i < length; i++) {
        at += write_utf8(at, PyUnicode_READ(kind, chars, i));
    }
    return at;
}

/* write_contents -- write texts or bytes: their sizes, then all of them. */
static int
write_contents(struct writer *writer, PyObject *const *items, size_t count, enum column_kind kind)
{
    struct numbers sizes;
    size_t total = 0;
    int result = -1;

    if (numbers_open(&sizes, count) < 0) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const int64_t size = kind == TEXT_COLUMN ? text_size(items[i]) : PyBytes_GET_SIZE(items[i]);
        if (size < 0) {
            result = size == -1 ? 0 : -1;
            goto done;
        }
        numbers_set(&sizes, i, size);
        total += (size_t)size;
    }
    if (write_byte(writer, (uint8_t)kind) < 0 || write_numbers(writer, &sizes, count) < 0) {
        goto done;
    }
    uint8_t *at = writer_take(writer, total);
    if (at == NULL) {
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        if (kind == TEXT_COLUMN) {
            at = write_text(at, items[i]);
        }
        else {
            memcpy(at, PyBytes_AS_STRING(items[i]), (size_t)sizes.all[i]);
            at += sizes.all[i];
        }
    }
    result = 1;
done:
    PyMem_Free(sizes.all);
    return result;
}

static int
write_tuples(struct writer *writer, PyObject *const *items, size_t count, struct place place)
{
    const size_t arity = (size_t)PyTuple_GET_SIZE(items[0]);
    const struct place inside = {place.depth + 1, 0};
    PyObject **children = NULL; /* borrowed from the tuples: first all first items, and so on */
    int result = 0;

    children = PyMem_Malloc(arity * count * sizeof *children);
    if (children == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < arity; k++) {
            children[k * count + i] = PyTuple_GET_ITEM(items[i], k);
        }
    }
    for (size_t k = 0; k < arity; k++) { /* before any of them is written */
        if (kind_of(children + k * count, count) == NO_COLUMN) {
            goto done;
        }
    }
    if (write_byte(writer, TUPLE_COLUMN) < 0 || write_byte(writer, (uint8_t)arity) < 0) {
        result = -1;
        goto done;
    }
    result = 1;
    for (size_t k = 0; result > 0 && k < arity; k++) {
        result = write_column(writer, children + k * count, count, inside);
    }
done:
    PyMem_Free(children);
    return result;
}

/* have_one_arity -- whether all tuples have as many items, a number that a column may have. */
static int
have_one_arity(PyObject *const *items, size_t count)
{
    const Py_ssize_t arity = PyTuple_GET_SIZE(items[0]);

    for (size_t i = 1; i < count; i++) {
        if (PyTuple_GET_SIZE(items[i]) != arity) {
            return 0;
        }
    }
    return 1 <= arity && arity <= MAX_COLUMN_ARITY;
}

static int
write_lists(struct writer *writer, PyObject *const *items, size_t count, struct place place)
{
    const struct place inside = {place.depth + 1, 1};
    struct numbers sizes;
    PyObject **children = NULL; /* borrowed from the lists */
    size_t total = 0;
    int result = is_repeated(items, count, place.depth == 1);

    if (result != 0) { /* a list that is there many times is written once, by the pickler */
        return result < 0 ? -1 : 0;
    }
    if (numbers_open(&sizes, count) < 0) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        numbers_set(&sizes, i, PyList_GET_SIZE(items[i]));
        total += (size_t)sizes.all[i];
    }
    children = PyMem_Malloc((total + !total) * sizeof *children);
    if (children == NULL) {
        PyErr_NoMemory();
        result = -1;
        goto done;
    }
    for (size_t i = 0, at = 0; i < count; i++) {
        for (Py_ssize_t k = 0; k < sizes.all[i]; k++) {
            children[at++] = PyList_GET_ITEM(items[i], k);
        }
    }
    if (kind_of(children, total) != NO_COLUMN) {
        result = write_byte(writer, LIST_COLUMN) < 0 ? -1 : write_numbers(writer, &sizes, count);
        if (result > 0) {
            result = write_column(writer, children, total, inside);
        }
    }
done:
    PyMem_Free(children);
    PyMem_Free(sizes.all);
    return result;
}

/* write_once -- write texts, bytes or tuples of which none is to be looked for among the others. */
static int
write_once(
    struct writer *writer, PyObject *const *items, size_t count, enum column_kind kind, struct place place)
{
    return kind == TUPLE_COLUMN ? write_tuples(writer, items, count, place)
                                : write_contents(writer, items, count, kind);
}

/* write_shared -- write each element once, and the number of each place, if that is shorter. */
static int
write_shared(
    struct writer *writer, PyObject *const *items, size_t count, enum column_kind kind, struct place place)
{
    const struct place inside = {place.depth + 1, 1};
    struct sharing sharing = {0};
    int result = place.depth == MAX_COLUMN_DEPTH ? 0 : find_shared(items, count, &sharing);

    if (result == 0) {
        result = write_once(writer, items, count, kind, place);
    }
    else if (result > 0) {
        result = write_byte(writer, SHARED_COLUMN) < 0 || write_word(writer, sharing.size) < 0
                     ? -1
                     : write_once(writer, sharing.distinct, sharing.size, kind, inside);
        const unsigned bits = bits_of(sharing.size - 1, place.in_bits && kind != TUPLE_COLUMN);
        if (result > 0 && write_bits(writer, sharing.numbers, count, bits) < 0) {
            result = -1;
        }
    }
    sharing_close(&sharing);
    return result;
}

static int
write_column(struct writer *writer, PyObject *const *items, size_t count, struct place place)
{
    const enum column_kind kind = kind_of(items, count);

    if (place.depth > MAX_COLUMN_DEPTH) {
        return 0;
    }
    switch (kind) {
    case NOTHING_COLUMN:
        return write_byte(writer, NOTHING_COLUMN) < 0 ? -1 : 1;
    case INT_COLUMN:
        return write_ints(writer, items, count);
    case FLOAT_COLUMN:
        return write_floats(writer, items, count);
    case BOOL_COLUMN:
        return write_bools(writer, items, count);
    case TEXT_COLUMN:
    case BYTES_COLUMN:
        return write_shared(writer, items, count, kind, place);
    case TUPLE_COLUMN:
        return have_one_arity(items, count) ? write_shared(writer, items, count, kind, place) : 0;
    case LIST_COLUMN:
        return write_lists(writer, items, count, place);
    default:
        return 0;
    }
}

/* core_encode_column -- a column as bytes, or None. */
static PyObject *
core_encode_column(PyObject *Py_UNUSED(module), PyObject *column)
{
    const struct place outermost = {1, 1};
    struct writer writer = {0};
    PyObject *result = NULL;

    if (!PyList_Check(column)) {
        PyErr_Format(PyExc_TypeError, "a column must be a list, got %.200s", Py_TYPE(column)->tp_name);
        return NULL;
    }
    const int written = write_column(
        &writer, ((PyListObject *)column)->ob_item, (size_t)PyList_GET_SIZE(column), outermost);
    if (written > 0) {
        result = PyBytes_FromStringAndSize((const char *)writer.data, (Py_ssize_t)writer.size);
    }
    else if (written == 0) {
        result = Py_NewRef(Py_None);
    }
    PyMem_Free(writer.data);
    return result;
}

#endif
