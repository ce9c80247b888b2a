/* Write to a status page which item begins: make_mark(). */

#ifndef MMGEVENT_MARKING_H
#define MMGEVENT_MARKING_H

#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "_twin.h"

#define ITEM_OFFSET 8         /* as _marking.ITEM_OFFSET */
#define ITEM_BYTES 137        /* u64 item, f64 time, u8 way, Pascal string of KEY_FIELD_BYTES */
#define KEY_FIELD_BYTES 120   /* with its length */
#define KEY_CHARS 60          /* as _marking.KEY_CHARS */
#define WORTH_A_REPR_S 20e-6  /* seconds, as _marking.WORTH_A_REPR_S */
#define INT_TEXT_BYTES 24     /* an int of 64 bits, and a space */

enum { KEY_TYPE_ONLY, KEY_STR, KEY_RENDERED, KEY_PLACE };

/* All objects are owned. */
struct marker {
    PyObject_HEAD
    PyObject *page, *show, *end_of;
    PyObject *twin;      /* the twin's mark(), which is called for keys that are rare */
    PyObject *clock;     /* time.monotonic, where it is no clock of POSIX */
    PyObject *last_path; /* kept alive, so that no other path gets its address; NULL before the first */
    PyObject *path_end;  /* bytes */
    double last_s;
};

static int
marker_traverse(struct marker *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->page);
    Py_VISIT(self->show);
    Py_VISIT(self->end_of);
    Py_VISIT(self->twin);
    Py_VISIT(self->clock);
    return 0;
}

static int
marker_clear(struct marker *self)
{
    Py_CLEAR(self->page);
    Py_CLEAR(self->show);
    Py_CLEAR(self->end_of);
    Py_CLEAR(self->twin);
    Py_CLEAR(self->clock);
    Py_CLEAR(self->last_path);
    Py_CLEAR(self->path_end);
    return 0;
}

static void
marker_dealloc(struct marker *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    marker_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* read_clock -- set *now to what time.monotonic() returns; -1 with an exception. */
static int
read_clock(struct marker *self, double *now)
{
#ifdef __linux__
    struct timespec time;

    (void)self;
    clock_gettime(CLOCK_MONOTONIC, &time);
    *now = (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
    return 0;
#else
    PyObject *read = PyObject_CallNoArgs(self->clock); /* owned */

    *now = read == NULL ? -1.0 : PyFloat_AsDouble(read);
    Py_XDECREF(read);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
#endif
}

/* write_int -- write an int in decimal digits; returns their number.  snprintf() takes four times as long. */
static int
write_int(char *text, long long number)
{
    char digits[INT_TEXT_BYTES];
    unsigned long long rest = number < 0 ? 0ULL - (unsigned long long)number : (unsigned long long)number;
    int n_digits = 0, n_bytes = 0;

    do {
        digits[n_digits++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0) {
        text[n_bytes++] = '-';
    }
    while (n_digits) {
        text[n_bytes++] = digits[--n_digits];
    }
    return n_bytes;
}

static void
store_le64(unsigned char *place, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        place[i] = (unsigned char)(value >> 8 * i);
    }
}

/* write_item -- write an item to the page; -1 with the exception of a page that is closed.
 *
 * text  the key, of which as much is kept as fits.  `more` follows it. */
static int
write_item(struct marker *self, uint64_t item, double began_s, int way, const char *text, Py_ssize_t n_bytes,
           const char *more, Py_ssize_t n_more)
{
    unsigned char fields[ITEM_BYTES] = {0};
    unsigned char *const key = fields + ITEM_BYTES - KEY_FIELD_BYTES;
    uint64_t bits = 0;
    Py_buffer page;

    if (n_bytes > KEY_FIELD_BYTES - 1) {
        n_bytes = KEY_FIELD_BYTES - 1;
    }
    if (n_more > KEY_FIELD_BYTES - 1 - n_bytes) {
        n_more = KEY_FIELD_BYTES - 1 - n_bytes;
    }
    memcpy(&bits, &began_s, sizeof bits);
    store_le64(fields, item);
    store_le64(fields + 8, bits);
    fields[16] = (unsigned char)way;
    key[0] = (unsigned char)(n_bytes + n_more);
    if (n_bytes > 0) {
        memcpy(key + 1, text, (size_t)n_bytes);
    }
    if (n_more > 0) {
        memcpy(key + 1 + n_bytes, more, (size_t)n_more);
    }
    if (PyObject_GetBuffer(self->page, &page, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    if (page.len < ITEM_OFFSET + ITEM_BYTES) {
        PyErr_SetString(PyExc_ValueError, "the page is too small");
        PyBuffer_Release(&page);
        return -1;
    }
    memcpy((unsigned char *)page.buf + ITEM_OFFSET, fields, ITEM_BYTES);
    PyBuffer_Release(&page);
    return 0;
}

/* mark_by_twin -- let the twin write a key that is rare; -1 with an exception. */
static int
mark_by_twin(struct marker *self, uint64_t item, PyObject *key)
{
    PyObject *number = PyLong_FromUnsignedLongLong(item); /* owned */
    PyObject *marked = number == NULL ? NULL : PyObject_CallFunctionObjArgs(self->twin, number, key, NULL); /* owned */

    Py_XDECREF(number);
    Py_XDECREF(marked);
    return marked == NULL ? -1 : 0;
}

/* keep_path -- remember what is kept of a path; -1 with an exception. */
static int
keep_path(struct marker *self, PyObject *path)
{
    PyObject *end = PyObject_CallOneArg(self->end_of, path); /* owned */

    if (end != NULL && !PyBytes_Check(end)) {
        PyErr_SetString(PyExc_TypeError, "end_of() must return bytes");
        Py_CLEAR(end);
    }
    if (end == NULL) {
        return -1;
    }
    Py_XSETREF(self->last_path, Py_NewRef(path));
    Py_XSETREF(self->path_end, end);
    return 0;
}

/* mark_place -- write the key (path, offset): 1, 0 if the twin must write it, -1 with an exception. */
static int
mark_place(struct marker *self, uint64_t item, double began_s, PyObject *key)
{
    PyObject *const path = PyTuple_GET_ITEM(key, 0); /* borrowed from the tuple */
    char text[INT_TEXT_BYTES];
    int overflow = 0;
    const long long offset = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(key, 1), &overflow);

    if (overflow) {
        return 0;
    }
    if (path != self->last_path && keep_path(self, path) < 0) {
        return -1;
    }
    int n_bytes = write_int(text, offset);
    text[n_bytes++] = ' ';
    return write_item(self, item, began_s, KEY_PLACE, text, n_bytes, PyBytes_AS_STRING(self->path_end),
                      PyBytes_GET_SIZE(self->path_end)) < 0 ? -1 : 1;
}

/* mark_other -- write the type of a key, or have it shown; -1 with an exception. */
static int
mark_other(struct marker *self, uint64_t item, double began_s, PyObject *key)
{
    if (began_s - self->last_s < WORTH_A_REPR_S) {
        PyObject *name = PyType_GetName(Py_TYPE(key)); /* owned */
        Py_ssize_t n_bytes = 0;
        const char *text = name == NULL ? NULL : PyUnicode_AsUTF8AndSize(name, &n_bytes); /* borrowed from name */
        const int result =
            text == NULL ? -1 : write_item(self, item, began_s, KEY_TYPE_ONLY, text, n_bytes, NULL, 0);
        Py_XDECREF(name);
        return result;
    }
    PyObject *shown = PyObject_CallFunction(self->show, "KOd", (unsigned long long)item, key, began_s); /* owned */
    Py_XDECREF(shown);
    return shown == NULL ? -1 : 0;
}

/* mark_item -- write to the page that an item begins now; -1 with an exception. */
static int
mark_item(struct marker *self, uint64_t item, PyObject *key)
{
    double began_s = 0.0;
    int written = 0;

    if (read_clock(self, &began_s) < 0) {
        return -1;
    }
    if (PyUnicode_CheckExact(key)) {
        if (PyUnicode_IS_READY(key) && PyUnicode_IS_ASCII(key)) {
            const Py_ssize_t n_chars = PyUnicode_GET_LENGTH(key);
            written = write_item(self, item, began_s, KEY_STR, PyUnicode_DATA(key),
                                 n_chars > KEY_CHARS ? KEY_CHARS : n_chars, NULL, 0) < 0 ? -1 : 1;
        }
    }
    else if (PyLong_CheckExact(key)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(key, &overflow);
        if (!overflow) {
            char text[INT_TEXT_BYTES];
            const int n_bytes = write_int(text, number);
            written = write_item(self, item, began_s, KEY_RENDERED, text, n_bytes, NULL, 0) < 0 ? -1 : 1;
        }
    }
    else if (PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) == 2
             && PyUnicode_CheckExact(PyTuple_GET_ITEM(key, 0)) && PyLong_CheckExact(PyTuple_GET_ITEM(key, 1))) {
        written = mark_place(self, item, began_s, key);
    }
    else {
        written = mark_other(self, item, began_s, key) < 0 ? -1 : 1;
    }
    if (written == 0) {
        written = mark_by_twin(self, item, key);
    }
    self->last_s = began_s;
    return written < 0 ? -1 : 0;
}

static PyObject *
marker_call(struct marker *self, PyObject *args, PyObject *kwargs)
{
    PyObject *item = NULL, *key = NULL; /* borrowed from args */

    if ((kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) || !PyArg_ParseTuple(args, "OO:mark", &item, &key)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "mark() takes no keyword arguments");
        }
        return NULL;
    }
    const unsigned long long number = PyLong_AsUnsignedLongLong(item);
    if ((number == (unsigned long long)-1 && PyErr_Occurred()) || mark_item(self, number, key) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyType_Slot marker_slots[] = {
    {Py_tp_doc, "What make_mark() returns."},
    {Py_tp_traverse, marker_traverse},
    {Py_tp_clear, marker_clear},
    {Py_tp_dealloc, marker_dealloc},
    {Py_tp_call, marker_call},
    {0, NULL},
};

static PyType_Spec marker_spec = {
    .name = "mmgevent._speedups._core.Marker",
    .basicsize = sizeof(struct marker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = marker_slots,
};

static PyObject *
core_make_mark(PyObject *module, PyObject *args)
{
    PyObject *page = NULL, *show = NULL, *end_of = NULL; /* borrowed from args */
    PyObject *type = NULL, *make = NULL, *time = NULL;   /* owned */
    struct marker *self = NULL;                          /* owned */

    if (!PyArg_ParseTuple(args, "OOO:make_mark", &page, &show, &end_of)) {
        return NULL;
    }
    type = PyObject_GetAttrString(module, "_Marker");
    make = PyObject_GetAttrString(module, "_make_mark");
    time = PyImport_ImportModule("time");
    if (type != NULL && make != NULL && time != NULL) {
        self = PyObject_GC_New(struct marker, (PyTypeObject *)type);
    }
    if (self != NULL) {
        self->page = Py_NewRef(page);
        self->show = Py_NewRef(show);
        self->end_of = Py_NewRef(end_of);
        self->twin = PyObject_Call(make, args, NULL);
        self->clock = PyObject_GetAttrString(time, "monotonic");
        self->last_path = self->path_end = NULL;
        self->last_s = 0.0;
        PyObject_GC_Track((PyObject *)self);
        if (self->twin == NULL || self->clock == NULL) {
            Py_CLEAR(self);
        }
    }
    Py_XDECREF(time);
    Py_XDECREF(make);
    Py_XDECREF(type);
    return (PyObject *)self;
}

#endif
