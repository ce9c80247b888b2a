/* The items of entries: the class Items, and stream_items(). */

#ifndef MMGEVENT_ITEMS_H
#define MMGEVENT_ITEMS_H

#include <Python.h>
#include <structmember.h>
#include <stdint.h>

#include "_marking.h"
#include "_units.h"

#define PLACE_BITS 32 /* as _items.PLACE_BITS */

/* The state of `_items.Items` between two items.  All objects are owned. */
struct items {
    PyObject_HEAD
    PyObject *entries; /* iterator; NULL after the last one, and after an exception */
    PyObject *skip;
    PyObject *ref_type, *unreadable_type;
    PyObject *units;          /* of the current ref; NULL between refs */
    PyObject *ref_key;        /* of that ref */
    uint64_t entry;           /* of the next entry */
    uint64_t unit_position;   /* of the next unit */
    uint64_t position;        /* of the item that was given last */
    int has_position;
    Py_ssize_t count;
    PyObject *key;
    PyObject *ref;
    int drops_items;
};

static int
items_traverse(struct items *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->entries);
    Py_VISIT(self->skip);
    Py_VISIT(self->ref_type);
    Py_VISIT(self->unreadable_type);
    Py_VISIT(self->units);
    Py_VISIT(self->ref_key);
    Py_VISIT(self->key);
    Py_VISIT(self->ref);
    return 0;
}

/* items_end -- give no more items. */
static void
items_end(struct items *self)
{
    Py_CLEAR(self->entries);
    Py_CLEAR(self->units);
    Py_CLEAR(self->ref_key);
}

static int
items_clear(struct items *self)
{
    items_end(self);
    Py_CLEAR(self->skip);
    Py_CLEAR(self->ref_type);
    Py_CLEAR(self->unreadable_type);
    Py_CLEAR(self->key);
    Py_CLEAR(self->ref);
    return 0;
}

static void
items_dealloc(struct items *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    items_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
items_init(struct items *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *entries = NULL, *first = NULL, *skip = NULL; /* borrowed from args */
    PyObject *ref_type = NULL, *unreadable_type = NULL;    /* borrowed from args */
    PyObject *iterator = NULL;                             /* owned */
    int drops_items = 0;

    if (!PyArg_ParseTuple(args, "OO!O!pO!O!:Items", &entries, &PyLong_Type, &first, &PyFrozenSet_Type, &skip,
                          &drops_items, &PyType_Type, &ref_type, &PyType_Type, &unreadable_type)) {
        return -1;
    }
    const unsigned long long entry = PyLong_AsUnsignedLongLong(first);
    if (entry == (unsigned long long)-1 && PyErr_Occurred()) {
        return -1;
    }
    iterator = PyObject_GetIter(entries);
    if (iterator == NULL) {
        return -1;
    }
    items_clear(self);
    self->entries = iterator;
    self->skip = Py_NewRef(skip);
    self->ref_type = Py_NewRef(ref_type);
    self->unreadable_type = Py_NewRef(unreadable_type);
    self->key = Py_NewRef(Py_None);
    self->entry = entry;
    self->count = 0;
    self->has_position = 0;
    self->drops_items = drops_items;
    return 0;
}

/* unpack_two -- set new references to the two elements of a tuple or another iterable; -1 with an exception. */
static inline int
unpack_two(PyObject *pair, PyObject **first, PyObject **second)
{
    if (PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2) {
        *first = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        *second = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
        return 0;
    }
    PyObject *tuple = PySequence_Tuple(pair); /* owned */
    if (tuple != NULL && PyTuple_GET_SIZE(tuple) != 2) {
        PyErr_Format(PyExc_ValueError, "an item must be (key, value), got %zd elements", PyTuple_GET_SIZE(tuple));
        Py_CLEAR(tuple);
    }
    if (tuple == NULL) {
        return -1;
    }
    *first = Py_NewRef(PyTuple_GET_ITEM(tuple, 0));
    *second = Py_NewRef(PyTuple_GET_ITEM(tuple, 1));
    Py_DECREF(tuple);
    return 0;
}

/* is_skipped -- 1 if an item is to be left out, 0 if not, -1 with an exception. */
static int
is_skipped(struct items *self, uint64_t position)
{
    if (PySet_GET_SIZE(self->skip) == 0) {
        return 0;
    }
    PyObject *number = PyLong_FromUnsignedLongLong(position); /* owned */
    const int result = number == NULL ? -1 : PySet_Contains(self->skip, number);
    Py_XDECREF(number);
    return result;
}

/* open_ref -- begin to read a ref; -1 with an exception. */
static int
open_ref(struct items *self, uint64_t entry, PyObject *key, PyObject *ref)
{
    PyObject *opened = NULL; /* owned */
    PyObject *units = NULL;  /* owned */
    int result = -1;

    Py_XSETREF(self->ref, Py_NewRef(ref));
    opened = PyObject_CallMethod((PyObject *)self, "_open", "KOO", (unsigned long long)entry, key, ref);
    if (opened == NULL) {
        return -1;
    }
    if (opened == Py_None) {
        Py_CLEAR(self->ref);
        result = 0;
    }
    else if (!PyTuple_Check(opened) || PyTuple_GET_SIZE(opened) != 2) {
        PyErr_SetString(PyExc_TypeError, "_open() must return None, or (position, units)");
    }
    else {
        const unsigned long long position = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(opened, 0));
        if (position != (unsigned long long)-1 || !PyErr_Occurred()) {
            units = PyObject_GetIter(PyTuple_GET_ITEM(opened, 1));
        }
        if (units != NULL) {
            self->unit_position = position;
            Py_XSETREF(self->key, Py_NewRef(key));
            Py_XSETREF(self->ref_key, Py_NewRef(key));
            Py_XSETREF(self->units, units);
            result = 0;
        }
    }
    Py_DECREF(opened);
    return result;
}

/* tell_failed -- let _units_failed() raise, for the exception that is set. Always returns -1. */
static int
tell_failed(struct items *self)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL; /* owned */
    PyObject *told = NULL;                                   /* owned */

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    told = PyObject_CallMethod((PyObject *)self, "_units_failed", "OKO", error,
                               (unsigned long long)(self->entry - 1), self->ref_key);
    if (told != NULL) {
        Py_DECREF(told);
        PyErr_Restore(type, error, traceback);
        return -1;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return -1;
}

/* take_unit -- take the next unit: 1 with new references, 0 after the last one, -1 with an exception. */
static inline int
take_unit(PyObject *units, PyObject **key, PyObject **value)
{
    if (Py_TYPE(units)->tp_iternext == (iternextfunc)units_next) {
        return units_take((struct units *)units, key, value);
    }
    PyObject *unit = PyIter_Next(units); /* owned */
    if (unit == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    const int result = unpack_two(unit, key, value) < 0 ? -1 : 1;
    Py_DECREF(unit);
    return result;
}

/* next_unit -- take the next item of the current ref: 1, 0 after the last one, -1 with an exception. */
static int
next_unit(struct items *self, PyObject **key, PyObject **value)
{
    PyObject *const units = Py_NewRef(self->units); /* owned: reading may run any code */
    int result = 0;

    for (;;) {
        result = take_unit(units, key, value);
        if (result <= 0) {
            if (result == 0) {
                Py_CLEAR(self->units);
                Py_CLEAR(self->ref);
            }
            else {
                tell_failed(self);
            }
            break;
        }
        const uint64_t position = self->unit_position++;
        result = is_skipped(self, position);
        if (result == 0) {
            self->count++;
            self->position = position;
            self->has_position = 1;
            Py_XSETREF(self->key, Py_NewRef(*key));
            if ((PyObject *)Py_TYPE(*value) != self->unreadable_type) {
                result = 1;
                break;
            }
            PyObject *told = PyObject_CallMethod(
                (PyObject *)self, "_unreadable", "KOO", (unsigned long long)position, *key, *value); /* owned */
            result = told == NULL ? -1 : 0;
            Py_XDECREF(told);
        }
        Py_CLEAR(*key);
        Py_CLEAR(*value);
        if (result < 0) {
            break;
        }
    }
    Py_DECREF(units);
    return result;
}

/* items_take -- take the next item.
 *
 * position    set to where it is.
 * key, value  set to new references.
 *
 * Returns 1, or 0 at the end, or -1 with an exception. */
static int
items_take(struct items *self, uint64_t *position, PyObject **key, PyObject **value)
{
    int result = 0;

    while (result == 0) {
        if (self->units != NULL) {
            result = next_unit(self, key, value);
            continue;
        }
        if (self->entries == NULL) {
            return 0;
        }
        PyObject *const entries = Py_NewRef(self->entries); /* owned */
        PyObject *pair = PyIter_Next(entries);              /* owned */
        Py_DECREF(entries);
        if (pair == NULL) {
            if (!PyErr_Occurred()) {
                items_end(self);
                return 0;
            }
            result = -1;
            break;
        }
        const uint64_t entry = self->entry++;
        result = unpack_two(pair, key, value);
        Py_DECREF(pair);
        if (result < 0) {
            break;
        }
        if (PyType_IsSubtype(Py_TYPE(*value), (PyTypeObject *)self->ref_type)) {
            result = open_ref(self, entry, *key, *value);
        }
        else {
            const int skipped = self->drops_items ? 1 : is_skipped(self, entry << PLACE_BITS);
            if (skipped == 0) {
                self->count++;
                self->position = entry << PLACE_BITS;
                self->has_position = 1;
                Py_XSETREF(self->key, Py_NewRef(*key));
                result = 1;
                break;
            }
            result = skipped < 0 ? -1 : 0;
        }
        Py_CLEAR(*key);
        Py_CLEAR(*value);
    }
    if (result < 0) {
        keep_raising();
        items_end(self);
    }
    *position = self->position;
    return result;
}

static PyObject *
items_next(struct items *self)
{
    PyObject *key = NULL, *value = NULL; /* owned; the tuple takes them over */
    uint64_t position = 0;

    if (items_take(self, &position, &key, &value) <= 0) {
        return NULL;
    }
    return Py_BuildValue("(KNN)", (unsigned long long)position, key, value);
}

static PyObject *
items_position(struct items *self, void *Py_UNUSED(closure))
{
    if (!self->has_position) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(self->position);
}

static int
items_set_position(struct items *self, PyObject *position, void *Py_UNUSED(closure))
{
    if (position == NULL || position == Py_None) {
        self->has_position = 0;
        return 0;
    }
    const unsigned long long number = PyLong_AsUnsignedLongLong(position);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        return -1;
    }
    self->position = number;
    self->has_position = 1;
    return 0;
}

static PyMemberDef items_members[] = {
    {"count", T_PYSSIZET, offsetof(struct items, count), READONLY, NULL},
    {"key", T_OBJECT, offsetof(struct items, key), 0, NULL},
    {"ref", T_OBJECT, offsetof(struct items, ref), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef items_getset[] = {
    {"position", (getter)items_position, (setter)items_set_position, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot items_slots[] = {
    {Py_tp_doc, "See _items.Items."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, items_init},
    {Py_tp_traverse, items_traverse},
    {Py_tp_clear, items_clear},
    {Py_tp_dealloc, items_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, items_next},
    {Py_tp_members, items_members},
    {Py_tp_getset, items_getset},
    {0, NULL},
};

static PyType_Spec items_spec = {
    .name = "mmgevent._speedups._core.Items",
    .basicsize = sizeof(struct items),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = items_slots,
};

/* Where map_items() and stream_items() take items from, and what they tell of each.
 *
 * Both are asked for without calls of Python if they are ours.  All objects are owned.  There are no
 * more items where `items` is NULL. */
struct source {
    PyObject *items, *mark;
    int are_items_ours, is_mark_ours;
};

/* source_open -- set the fields, also if it returns -1 with an exception. */
static int
source_open(struct source *self, PyObject *items, PyObject *mark)
{
    self->items = PyObject_GetIter(items);
    self->mark = Py_NewRef(mark);
    self->are_items_ours = self->items != NULL && Py_TYPE(self->items)->tp_iternext == (iternextfunc)items_next;
    self->is_mark_ours = Py_TYPE(mark)->tp_call == (ternaryfunc)marker_call;
    return self->items == NULL ? -1 : 0;
}

/* source_take -- take the next item and mark it; see items_take(). */
static int
source_take(struct source *self, uint64_t *position, PyObject **key, PyObject **value)
{
    int result = 0;

    if (self->items == NULL) {
        return 0;
    }
    PyObject *const items = Py_NewRef(self->items); /* owned: taking one may run any code, which may end the source */
    if (self->are_items_ours) {
        result = items_take((struct items *)items, position, key, value);
        Py_DECREF(items);
    }
    else {
        PyObject *item = PyIter_Next(items); /* owned */
        Py_DECREF(items);
        if (item == NULL) {
            return PyErr_Occurred() ? -1 : 0;
        }
        result = -1;
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 3) {
            PyErr_SetString(PyExc_TypeError, "items must be tuples of (position, key, value)");
        }
        else {
            *position = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(item, 0));
            if (*position != (uint64_t)-1 || !PyErr_Occurred()) {
                *key = Py_NewRef(PyTuple_GET_ITEM(item, 1));
                *value = Py_NewRef(PyTuple_GET_ITEM(item, 2));
                result = 1;
            }
        }
        Py_DECREF(item);
    }
    if (result > 0) {
        if (self->is_mark_ours) {
            result = mark_item((struct marker *)self->mark, *position, *key) < 0 ? -1 : 1;
        }
        else {
            PyObject *number = PyLong_FromUnsignedLongLong(*position); /* owned */
            PyObject *args[] = {number, *key};                         /* borrowed */
            PyObject *marked = number == NULL ? NULL : PyObject_Vectorcall(self->mark, args, 2, NULL); /* owned */
            result = marked == NULL ? -1 : 1;
            Py_XDECREF(marked);
            Py_XDECREF(number);
        }
        if (result < 0) {
            Py_CLEAR(*key);
            Py_CLEAR(*value);
        }
    }
    return result;
}

#define SOURCE_VISIT(source)   \
    do {                       \
        Py_VISIT((source).items); \
        Py_VISIT((source).mark);  \
    } while (0)

#define SOURCE_CLEAR(source)   \
    do {                       \
        Py_CLEAR((source).items); \
        Py_CLEAR((source).mark);  \
    } while (0)

#endif
