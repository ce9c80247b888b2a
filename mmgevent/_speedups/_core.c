/* The work that is done once per record: hash, group, fold, scatter and merge.
 *
 * This file holds the functions of the module and reads their arguments.  The work itself is in the
 * headers, one noun each:
 *
 *   _xxh64.h     the hash function                _plain.h    groups in a table of plain keys
 *   _digest.h    the hash of a key                _table.h    that table
 *   _number_hash.h   hash() of numbers
 *   _estimate.h  the memory of a key or value     _consume.h  group() and fold()
 *   _groups.h    dicts of groups                  _merge.h    the three merge functions
 *   _items.h     the class Items                  _scatter.h  scatter()
 *   _mapping.h   take(), map_items(), stream_items()
 *   _marking.h   make_mark()                      _opcodes.h  check_pickle()
 *   _twin.h      calls of the Python twin         _rows.h     the class CsvRows
 *   _units.h     lines_of(), pieces_of(), placed(), values_of()
 *   _arguments.h arguments of these functions     _fold_table.h, _fold_scatter.h   the class FoldTable
 *   _words.h     the words of a text     _word_grams.h  n-grams      _word_table.h  their counts
 *   _word_codec.h  their characters   _word_count.h  the class WordCounter   _word_iter.h  words_of()
 *   _column.h, _column_share.h, _column_write.h, _column_read.h   encode_column(), decode_column()
 *   _block_table.h, _block_read.h, _block_deal.h, _block_fold.h   the class ColumnFold
 *
 * _fallback.py and the modules that it takes its names from are the specification.  Results and errors here equal
 * theirs, so workers with and without this module serve one job.  Shapes, units and errors are
 * described there and not repeated here.
 *
 * User code (__hash__, __eq__, __add__, __lt__, __next__, __del__) may run under nearly every call.
 * So a reference that must survive a call is owned, and code asks a list or dict for its size again
 * at each step. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#include "_arguments.h"
#include "_block_fold.h"
#include "_column_read.h"
#include "_column_write.h"
#include "_consume.h"
#include "_digest.h"
#include "_estimate.h"
#include "_fold_scatter.h"
#include "_fold_table.h"
#include "_groups.h"
#include "_items.h"
#include "_mapping.h"
#include "_marking.h"
#include "_merge.h"
#include "_opcodes.h"
#include "_rows.h"
#include "_scatter.h"
#include "_units.h"
#include "_word_count.h"
#include "_word_iter.h"
#include "_xxh64.h"

static PyObject *
core_xxh64(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "seed", NULL};
    Py_buffer data;
    PyObject *seed_object = NULL; /* borrowed from args */
    uint64_t seed = 0, hash = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|O", names, &data, &seed_object)) {
        return NULL;
    }
    const int failed = parse_seed(seed_object, &seed);
    if (!failed) {
        hash = xxh64_tagged(NO_TAG, data.buf, (size_t)data.len, seed);
    }
    PyBuffer_Release(&data);
    return failed ? NULL : PyLong_FromUnsignedLongLong(hash);
}

static PyObject *
core_hash_key(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", "seed", NULL};
    PyObject *key = NULL, *seed_object = NULL; /* borrowed from args */
    uint64_t seed = 0, digest = 0;
    int hashed = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O", names, &key, &seed_object)
        || parse_seed(seed_object, &seed) < 0 || digest_key(module, key, seed, &digest, &hashed) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(digest);
}

static PyObject *
core_is_hashed(PyObject *module, PyObject *key)
{
    uint64_t digest = 0;
    int hashed = 0;

    if (digest_key(module, key, 0, &digest, &hashed) < 0) {
        return NULL;
    }
    return PyBool_FromLong(hashed);
}

static PyObject *
core_estimate_bytes(PyObject *Py_UNUSED(module), PyObject *thing)
{
    int64_t size = 0;

    return estimate(thing, &size) < 0 ? NULL : PyLong_FromLongLong(size);
}

/* partition(key, count, seed=0) -- the partition that owns one key.
 *
 * key    any key of docs/keys.md; borrowed for this call.
 * count  number of partitions, 1 <= count < 2**32.
 *
 * Returns a new int p, 0 <= p < count.  The twin gives the same p on every
 * platform: a key that lands in two partitions is reduced twice. */
static PyObject *
core_partition(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", "count", "seed", NULL};
    PyObject *key = NULL, *count_object = NULL, *seed_object = NULL; /* borrowed from args */
    uint64_t count = 0, seed = 0, digest = 0;
    int hashed = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O", names, &key, &count_object, &seed_object)
        || parse_count(count_object, &count) < 0 || parse_seed(seed_object, &seed) < 0
        || digest_key(module, key, seed, &digest, &hashed) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(digest % count);
}

static PyObject *
core_group(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"pairs", "groups", "budget", NULL};
    PyObject *pairs = NULL, *groups = NULL; /* borrowed from args */
    long long budget = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!L", names, &pairs, &PyDict_Type, &groups, &budget)) {
        return NULL;
    }
    return consume(module, pairs, groups, GROUP, budget);
}

static PyObject *
core_fold(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"pairs", "table", "op", "budget", NULL};
    PyObject *pairs = NULL, *table = NULL; /* borrowed from args */
    long op = 0;
    long long budget = 0;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO!lL", names, &pairs, &PyDict_Type, &table, &op, &budget)
        || check_op(op) < 0) {
        return NULL;
    }
    return consume(module, pairs, table, (int)op, budget);
}

static PyObject *
core_scatter(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"groups", "count", "seed", NULL};
    PyObject *groups = NULL, *count_object = NULL, *seed_object = NULL; /* borrowed from args */
    PyObject *keys = NULL, *values = NULL;                              /* owned copies: nobody else changes them */
    PyObject *parts = NULL;                                             /* owned */
    uint32_t *numbers = NULL;
    Py_ssize_t *sizes = NULL;
    uint64_t count = 0, seed = 0;
    int hashed = 0;
    PyObject *result = NULL;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!O|O", names, &PyDict_Type, &groups, &count_object, &seed_object)
        || parse_count(count_object, &count) < 0 || parse_seed(seed_object, &seed) < 0) {
        return NULL;
    }
    keys = PyDict_Keys(groups);
    values = keys == NULL ? NULL : PyDict_Values(groups);
    if (values == NULL) {
        goto done;
    }
    numbers = PyMem_Calloc((size_t)PyList_GET_SIZE(keys), sizeof *numbers);
    sizes = PyMem_Calloc((size_t)count, sizeof *sizes);
    if (numbers == NULL || sizes == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (PyList_GET_SIZE(keys) != PyList_GET_SIZE(values)) { /* a __del__ ran between the two copies */
        PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
        goto done;
    }
    if (number_keys(module, keys, count, seed, numbers, sizes, &hashed) < 0) {
        goto done;
    }
    parts = make_parts(count, sizes);
    if (parts != NULL) {
        deal(parts, keys, values, numbers, sizes);
        result = Py_BuildValue("(OO)", parts, hashed ? Py_True : Py_False);
    }
done:
    PyMem_Free(sizes);
    PyMem_Free(numbers);
    Py_XDECREF(parts);
    Py_XDECREF(values);
    Py_XDECREF(keys);
    return result;
}

static PyObject *
core_merge_grouped(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"groups", "keys", "values", NULL};
    PyObject *groups = NULL, *keys = NULL, *values = NULL; /* borrowed from args */

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!O!O!", names, &PyDict_Type, &groups, &PyList_Type, &keys, &PyList_Type, &values)) {
        return NULL;
    }
    return merge(module, groups, keys, values, GROUPED, 0);
}

static PyObject *
core_merge_flat(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"groups", "keys", "values", NULL};
    PyObject *groups = NULL, *keys = NULL, *values = NULL; /* borrowed from args */

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!O!O!", names, &PyDict_Type, &groups, &PyList_Type, &keys, &PyList_Type, &values)) {
        return NULL;
    }
    return merge(module, groups, keys, values, FLAT, 0);
}

static PyObject *
core_merge_fold(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"table", "keys", "values", "op", NULL};
    PyObject *table = NULL, *keys = NULL, *values = NULL; /* borrowed from args */
    long op = 0;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!O!O!l", names, &PyDict_Type, &table, &PyList_Type, &keys, &PyList_Type, &values, &op)
        || check_op(op) < 0) {
        return NULL;
    }
    return merge(module, table, keys, values, FOLD, (int)op);
}

/* Called once per item.  Positional arguments save a fifth of the time of a short item. */
static PyObject *
core_take(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t limit = 0;

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "take() takes 2 positional arguments, got %zd", count);
        return NULL;
    }
    limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return take(module, args[0], limit);
}

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void)) function, METH_VARARGS | METH_KEYWORDS

static PyMethodDef module_methods[] = {
    {"xxh64", WITH_KEYWORDS(core_xxh64), "xxh64(data, seed=0)\n\nReturn XXH64 of a bytes-like object."},
    {"hash_key", WITH_KEYWORDS(core_hash_key), "hash_key(key, seed=0)\n\nSee _encoding.hash_key."},
    {"is_hashed", core_is_hashed, METH_O, "is_hashed(key)\n\nSee _encoding.is_hashed."},
    {"unify_nan", unify_nan, METH_O, "unify_nan(key)\n\nSee _encoding.unify_nan."},
    {"estimate_bytes", core_estimate_bytes, METH_O, "estimate_bytes(thing)\n\nSee _estimate.estimate_bytes."},
    {"partition", WITH_KEYWORDS(core_partition), "partition(key, count, seed=0)\n\nSee _fallback.partition."},
    {"group", WITH_KEYWORDS(core_group), "group(pairs, groups, budget)\n\nSee _fallback.group."},
    {"fold", WITH_KEYWORDS(core_fold), "fold(pairs, table, op, budget)\n\nSee _fallback.fold."},
    {"take", (PyCFunction)(void (*)(void)) core_take, METH_FASTCALL, "take(records, limit)\n\nSee _fallback.take."},
    {"map_items", (PyCFunction)(void (*)(void)) core_map_items, METH_FASTCALL,
     "map_items(items, mark, mapfn, pairs_of, failed, large, limit)\n\nSee _fallback.map_items."},
    {"stream_items", (PyCFunction)(void (*)(void)) core_stream_items, METH_FASTCALL,
     "stream_items(items, mark, mapfn, pairs_of)\n\nSee _items.stream_items."},
    {"make_mark", core_make_mark, METH_VARARGS, "make_mark(page, show, end_of)\n\nSee _marking.make_mark."},
    {"lines_of", core_lines_of, METH_VARARGS,
     "lines_of(path, offset, data, ignored, encoding, errors, is_like_ascii, broken)\n\nSee _units.lines_of."},
    {"pieces_of", core_pieces_of, METH_VARARGS, "pieces_of(path, offset, data, n_bytes)\n\nSee _units.pieces_of."},
    {"placed", core_placed, METH_VARARGS, "placed(path, offset, records, between)\n\nSee _units.placed."},
    {"values_of", core_values_of, METH_VARARGS, "values_of(lines, scan, parse)\n\nSee _units.values_of."},
    {"words_of", (PyCFunction)(void (*)(void)) core_words_of, METH_FASTCALL,
     "words_of(text, rules)\n\nSee _words.words_of."},
    {"scatter", WITH_KEYWORDS(core_scatter), "scatter(groups, count, seed=0)\n\nSee _fallback.scatter."},
    {"merge_grouped", WITH_KEYWORDS(core_merge_grouped),
     "merge_grouped(groups, keys, values)\n\nSee _fallback.merge_grouped."},
    {"merge_flat", WITH_KEYWORDS(core_merge_flat),
     "merge_flat(groups, keys, values)\n\nSee _fallback.merge_flat."},
    {"merge_fold", WITH_KEYWORDS(core_merge_fold),
     "merge_fold(table, keys, values, op)\n\nSee _fallback.merge_fold."},
    {"check_pickle", (PyCFunction)(void (*)(void)) core_check_pickle, METH_FASTCALL,
     "check_pickle(data, max_depth, max_weight)\n\nSee _opcodes.check_pickle."},
    {"encode_column", core_encode_column, METH_O, "encode_column(column)\n\nSee _column_write.encode_column."},
    {"decode_column", core_decode_column, METH_VARARGS,
     "decode_column(data, count)\n\nSee _column_read.decode_column."},
    {NULL, NULL, 0, NULL},
};

/* module_exec -- set the twin's functions and our classes as attributes, so the module needs no state. */
static int
module_exec(PyObject *module)
{
    static const char *const names[][2] = {
        {"encode", "_encode"},
        {"unify_nan", "_unify_nan"},
        {"unhashable_error", "_unhashable_error"},
        {"pair_error", "_pair_error"},
        {"make_mark", "_make_mark"},
        {"Block", "_Block"},
    };
    static const struct {
        PyType_Spec *spec;
        const char *name;
    } types[] = {
        {&mapping_spec, "_Mapping"},
        {&streaming_spec, "_Streaming"},
        {&marker_spec, "_Marker"},
        {&items_spec, "Items"},
        {&fold_table_spec, "FoldTable"},
        {&units_spec, "_Units"},
        {&values_spec, "_Values"},
        {&row_lines_spec, "_RowLines"},
        {&rows_spec, "CsvRows"},
        {&counter_spec, "WordCounter"},
        {&word_iter_spec, "_Words"},
        {&column_fold_spec, "ColumnFold"},
    };
    PyObject *twin = PyImport_ImportModule("mmgevent._speedups._fallback"); /* owned */
    int result = twin == NULL ? -1 : 0;

    for (size_t i = 0; result == 0 && i < sizeof names / sizeof names[0]; i++) {
        PyObject *function = PyObject_GetAttrString(twin, names[i][0]); /* owned */
        result = function == NULL ? -1 : PyObject_SetAttrString(module, names[i][1], function);
        Py_XDECREF(function);
    }
    Py_XDECREF(twin);
    for (size_t i = 0; result == 0 && i < sizeof types / sizeof types[0]; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, NULL); /* owned */
        result = type == NULL ? -1 : PyObject_SetAttrString(module, types[i].name, type);
        Py_XDECREF(type);
    }
    return result;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mmgevent._speedups._core",
    .m_doc = "What _fallback does, in C.",
    .m_size = 0,
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
