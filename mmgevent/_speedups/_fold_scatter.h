/* Deal the entries of a FoldTable out to partitions, as encoded columns: FoldTable.scatter(). */

#ifndef MMGEVENT_FOLD_SCATTER_H
#define MMGEVENT_FOLD_SCATTER_H

#include <Python.h>
#include <stdint.h>

#include "_arguments.h"
#include "_column_write.h"
#include "_digest.h"
#include "_fold_table.h"
#include "_number_hash.h"
#include "_table.h"

/* Entries in the order of their partitions. */
struct dealing {
    const struct entry **entries; /* owned array of borrowed entries */
    size_t *ends;                 /* of each partition */
};

/* dealing_open -- sort entries by partition, those of one partition in order; 0, or -1 with an exception.
 *
 * Call dealing_close() in either case. */
static int
dealing_open(PyObject *module, const struct table *table, uint64_t count, uint64_t seed, struct dealing *dealing)
{
    uint32_t *numbers = PyMem_Malloc((table->size + 1) * sizeof *numbers);
    int result = -1;

    dealing->entries = PyMem_Malloc((table->size + 1) * sizeof *dealing->entries);
    dealing->ends = PyMem_Calloc(count + 1, sizeof *dealing->ends);
    if (numbers == NULL || dealing->entries == NULL || dealing->ends == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (uint32_t i = 0; i < table->size; i++) {
        const struct entry *entry = &table->entries[i];
        uint64_t digest = 0;
        int hashed = 0;
        if (entry->key == NULL) {
            digest = digest_number(hash_int((int64_t)entry->code.words[0]), seed);
        }
        else if (digest_key(module, entry->key, seed, &digest, &hashed) < 0) {
            goto done;
        }
        numbers[i] = (uint32_t)(digest % count);
        dealing->ends[numbers[i] + 1]++;
    }
    for (uint64_t p = 1; p <= count; p++) { /* now the start of each partition */
        dealing->ends[p] += dealing->ends[p - 1];
    }
    for (uint32_t i = 0; i < table->size; i++) { /* then its end */
        dealing->entries[dealing->ends[numbers[i]]++] = &table->entries[i];
    }
    result = 0;
done:
    PyMem_Free(numbers);
    return result;
}

static void
dealing_close(struct dealing *dealing)
{
    PyMem_Free((void *)dealing->entries);
    PyMem_Free(dealing->ends);
}

/* write_numbers_of -- write the ints in some entries: keys, or sums; as write_column(). */
static int
write_numbers_of(struct writer *writer, const struct entry *const *entries, size_t count, int of_keys)
{
    struct numbers numbers;
    int result = -1;

    if (numbers_open(&numbers, count) == 0) {
        for (size_t i = 0; i < count; i++) {
            numbers_set(&numbers, i, of_keys ? (int64_t)entries[i]->code.words[0] : entries[i]->count);
        }
        result = write_int_column(writer, &numbers, count);
    }
    PyMem_Free(numbers.all);
    return result;
}

/* write_objects_of -- write the objects in some entries: keys, or values; as write_column(). */
static int
write_objects_of(struct writer *writer, const struct entry *const *entries, size_t count, int of_keys)
{
    const struct place outermost = {1, 1};
    PyObject **items = PyMem_Malloc(count * sizeof *items); /* owned array of borrowed objects */
    int result = 1;

    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; result > 0 && i < count; i++) {
        items[i] = of_keys ? entries[i]->key : entries[i]->value;
        result = items[i] != NULL; /* ints among objects: the general way makes objects of them */
    }
    if (result > 0) {
        result = write_column(writer, items, count, outermost);
    }
    PyMem_Free(items);
    return result;
}

/* column_of -- the encoded keys or values of some entries.
 *
 * *column  set to new bytes.
 *
 * Returns as write_column(). */
static int
column_of(const struct entry *const *entries, size_t count, int of_keys, PyObject **column)
{
    const PyObject *first = of_keys ? entries[0]->key : entries[0]->value;
    struct writer writer = {0};
    int result = 1;

    for (size_t i = 1; first == NULL && result > 0 && i < count; i++) {
        result = (of_keys ? entries[i]->key : entries[i]->value) == NULL;
    }
    if (result > 0) {
        result = first == NULL ? write_numbers_of(&writer, entries, count, of_keys)
                               : write_objects_of(&writer, entries, count, of_keys);
    }
    if (result > 0) {
        *column = PyBytes_FromStringAndSize((const char *)writer.data, (Py_ssize_t)writer.size);
        result = *column == NULL ? -1 : 1;
    }
    PyMem_Free(writer.data);
    return result;
}

/* part_of -- (count, keys, values) of some entries, encoded, or None without entries; as write_column(). */
static int
part_of(const struct entry *const *entries, size_t count, PyObject **part)
{
    PyObject *keys = NULL, *values = NULL; /* owned */
    int result = 1;

    if (count == 0) {
        *part = Py_NewRef(Py_None);
        return 1;
    }
    result = column_of(entries, count, 1, &keys);
    if (result > 0) {
        result = column_of(entries, count, 0, &values);
    }
    if (result > 0) {
        *part = Py_BuildValue("(nOO)", (Py_ssize_t)count, keys, values);
        result = *part == NULL ? -1 : 1;
    }
    Py_XDECREF(keys);
    Py_XDECREF(values);
    return result;
}

static PyObject *
fold_table_scatter(struct fold_table *self, PyObject *args)
{
    PyObject *module = PyType_GetModule(Py_TYPE(self));       /* borrowed */
    PyObject *count_object = NULL, *seed_object = NULL;       /* borrowed from args */
    PyObject *parts = NULL;                                   /* owned */
    struct dealing dealing = {0};
    uint64_t count = 0, seed = 0;
    int result = -1;

    if (module == NULL || !PyArg_ParseTuple(args, "O|O:scatter", &count_object, &seed_object)
        || parse_count(count_object, &count) < 0 || parse_seed(seed_object, &seed) < 0
        || fold_table_enter(self) < 0) {
        return NULL;
    }
    if (!self->is_plain) {
        self->is_busy = 0;
        Py_RETURN_NONE;
    }
    if (dealing_open(module, &self->table, count, seed, &dealing) == 0
        && (parts = PyList_New((Py_ssize_t)count)) != NULL) {
        result = 1;
        for (uint64_t p = 0; result > 0 && p < count; p++) {
            const size_t start = p == 0 ? 0 : dealing.ends[p - 1];
            PyObject *part = NULL; /* owned, then stolen */
            result = part_of(dealing.entries + start, dealing.ends[p] - start, &part);
            if (result > 0) {
                PyList_SET_ITEM(parts, (Py_ssize_t)p, part);
            }
        }
    }
    dealing_close(&dealing);
    self->is_busy = 0;
    if (result <= 0) {
        Py_CLEAR(parts);
    }
    return result == 0 ? Py_NewRef(Py_None) : parts;
}

static PyMethodDef fold_table_methods[] = {
    {"fold", (PyCFunction)(void (*)(void))fold_table_fold, METH_VARARGS, "See _folds.FoldTable."},
    {"merge", (PyCFunction)(void (*)(void))fold_table_merge, METH_VARARGS, "See _folds.FoldTable."},
    {"merge_lists", (PyCFunction)(void (*)(void))fold_table_merge_lists, METH_VARARGS,
     "See _folds.FoldTable."},
    {"scatter", (PyCFunction)(void (*)(void))fold_table_scatter, METH_VARARGS, "See _folds.FoldTable."},
    {"clear", (PyCFunction)(void (*)(void))fold_table_forget, METH_NOARGS, "See _folds.FoldTable."},
    {"take", (PyCFunction)(void (*)(void))fold_table_take, METH_NOARGS, "See _folds.FoldTable."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot fold_table_slots[] = {
    {Py_tp_doc, "FoldTable(op)\n\nSee _folds.FoldTable."},
    {Py_tp_new, fold_table_new},
    {Py_tp_traverse, fold_table_traverse},
    {Py_tp_clear, fold_table_clear},
    {Py_tp_dealloc, fold_table_dealloc},
    {Py_tp_methods, fold_table_methods},
    {Py_mp_length, fold_table_length},
    {0, NULL},
};

static PyType_Spec fold_table_spec = {
    .name = "mmgevent._speedups._core.FoldTable",
    .basicsize = sizeof(struct fold_table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = fold_table_slots,
};

#endif
