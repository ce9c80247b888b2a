/* Hash keys, group, fold, scatter and merge: what is done once a record.
 *
 * _fallback.py and _encoding.py are the specification: results and errors here
 * equal theirs, so workers with and without this module serve one job.  What is
 * said there (shapes, units, errors) is not repeated here.
 *
 * Only builtin classes are hashed in C, and subclasses that inherit both slots,
 * tp_hash and tp_richcompare, which is how C says "overrides neither __hash__ nor
 * __eq__".  Every other key goes through encode() of the Python twin, so there
 * is one place where classes are told apart.  Texts of errors come from there too.
 *
 * User code (__hash__, __eq__, __add__, __lt__, __next__, __del__) runs under
 * nearly every call.  So whatever lives across one is owned, and a list or dict is
 * asked for its size again at each step. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_table.h"

/* ---- XXH64, from its specification (Yann Collet, xxHash fast digest algorithm) ---- */

#define PRIME_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME_3 UINT64_C(0x165667B19E3779F9)
#define PRIME_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME_5 UINT64_C(0x27D4EB2F165667C5)

#define STRIPE 32 /* bytes that one round of the four lanes takes */

static inline uint64_t
rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline uint32_t
read32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t
read64(const uint8_t *p)
{
    return (uint64_t)read32(p) | (uint64_t)read32(p + 4) << 32;
}

static inline void
write64(uint8_t *p, uint64_t x)
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(x >> (8 * i));
    }
}

static inline uint64_t
mix(uint64_t lane, uint64_t input)
{
    return rotate(lane + input * PRIME_2, 31) * PRIME_1;
}

static inline void
mix_stripe(uint64_t lanes[4], const uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        lanes[i] = mix(lanes[i], read64(p + 8 * i));
    }
}

static uint64_t
merge_lanes(const uint64_t lanes[4])
{
    uint64_t hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
    for (int i = 0; i < 4; i++) {
        hash = (hash ^ mix(0, lanes[i])) * PRIME_1 + PRIME_4;
    }
    return hash;
}

static uint64_t
mix_tail(uint64_t hash, const uint8_t *p, size_t size)
{
    for (; size >= 8; p += 8, size -= 8) {
        hash = rotate(hash ^ mix(0, read64(p)), 27) * PRIME_1 + PRIME_4;
    }
    if (size >= 4) {
        hash = rotate(hash ^ read32(p) * PRIME_1, 23) * PRIME_2 + PRIME_3;
        p += 4;
        size -= 4;
    }
    for (; size > 0; p++, size--) {
        hash = rotate(hash ^ *p * PRIME_5, 11) * PRIME_1;
    }
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

#define NO_TAG (-1)

/* xxh64_tagged -- XXH64 of one tag byte (none if NO_TAG) followed by data, without joining them. */
static uint64_t
xxh64_tagged(int tag, const uint8_t *data, size_t size, uint64_t seed)
{
    uint8_t head[STRIPE];
    size_t head_size = 0;
    uint64_t hash = seed + PRIME_5;
    const uint64_t total = (uint64_t)size + (tag != NO_TAG);

    if (tag != NO_TAG) {
        head[0] = (uint8_t)tag;
        head_size = 1;
    }
    if (total < STRIPE) {
        if (size > 0) {
            memcpy(head + head_size, data, size);
        }
        return mix_tail(hash + total, head, (size_t)total);
    }
    uint64_t lanes[4] = {seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1};
    if (head_size > 0) {
        memcpy(head + head_size, data, STRIPE - head_size);
        mix_stripe(lanes, head);
        data += STRIPE - head_size;
        size -= STRIPE - head_size;
    }
    for (; size >= STRIPE; data += STRIPE, size -= STRIPE) {
        mix_stripe(lanes, data);
    }
    hash = merge_lanes(lanes);
    return mix_tail(hash + total, data, size);
}

/* ---- the twin ---- */

/* call_twin -- call one of the functions that module_exec() put into the module.  New reference or NULL. */
static PyObject *
call_twin(PyObject *module, const char *name, PyObject *argument)
{
    PyObject *function = PyObject_GetAttrString(module, name); /* owned */
    PyObject *result = NULL;

    if (function != NULL) {
        result = PyObject_CallOneArg(function, argument);
        Py_DECREF(function);
    }
    return result;
}

/* Whether instances of cls, a subclass of base, hash and compare with base's own functions. */
static inline int
compares_like(const PyTypeObject *cls, const PyTypeObject *base)
{
    return cls == base || (cls->tp_hash == base->tp_hash && cls->tp_richcompare == base->tp_richcompare);
}

static inline int
is_like_tuple(PyObject *key)
{
    return PyTuple_Check(key) && compares_like(Py_TYPE(key), &PyTuple_Type);
}

static inline int
is_never_nan(PyObject *key)
{
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyBytes_CheckExact(key)
           || PyBool_Check(key) || key == Py_None;
}

/* ---- keys ---- */

/* may_have_nan -- 1 if unify_nan() must look at this key, 0 if it surely has no NaN, -1 on an error. */
static int
may_have_nan(PyObject *key)
{
    int answer = 0;

    if (is_never_nan(key)) {
        return 0;
    }
    if (PyFloat_CheckExact(key)) {
        return isnan(PyFloat_AS_DOUBLE(key)) != 0;
    }
    if (is_like_tuple(key)) {
        if (Py_EnterRecursiveCall(" while looking for NaN in a key")) {
            return -1;
        }
        /* Items are borrowed from an immutable tuple that the caller owns. */
        for (Py_ssize_t i = 0; answer == 0 && i < PyTuple_GET_SIZE(key); i++) {
            answer = may_have_nan(PyTuple_GET_ITEM(key, i));
        }
        Py_LeaveRecursiveCall();
        return answer;
    }
    if (PyFrozenSet_CheckExact(key)) {
        PyObject *members = PyObject_GetIter(key); /* owned */
        PyObject *member = NULL;                   /* owned */
        if (members == NULL || Py_EnterRecursiveCall(" while looking for NaN in a key")) {
            Py_XDECREF(members);
            return -1;
        }
        while (answer == 0 && (member = PyIter_Next(members)) != NULL) {
            answer = may_have_nan(member);
            Py_DECREF(member);
        }
        Py_LeaveRecursiveCall();
        Py_DECREF(members);
        return PyErr_Occurred() ? -1 : answer;
    }
    if (PyTuple_Check(key) || PyFrozenSet_Check(key) || PyComplex_Check(key)) {
        return 1;
    }
    return Py_TYPE(key)->tp_as_number != NULL && Py_TYPE(key)->tp_as_number->nb_float != NULL;
}

/* unify_nan -- new reference to the key, or to its like with every NaN replaced by the one NAN. */
static PyObject *
unify_nan(PyObject *module, PyObject *key)
{
    const int answer = may_have_nan(key);

    if (answer < 0) {
        return NULL;
    }
    return answer ? call_twin(module, "_unify_nan", key) : Py_NewRef(key);
}

static int digest_key(PyObject *module, PyObject *key, uint64_t seed, uint64_t *digest, int *hashed);

static uint64_t
digest_number(Py_hash_t number, uint64_t seed)
{
    uint8_t code[8];

    write64(code, (uint64_t)(int64_t)number);
    return xxh64_tagged('#', code, sizeof code, seed);
}

/* UTF-8 of one code point, surrogates included; returns the bytes written, at most 4. */
static size_t
write_utf8(uint8_t *p, Py_UCS4 c)
{
    if (c < 0x80) {
        p[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        p[0] = (uint8_t)(0xC0 | c >> 6);
        p[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        p[0] = (uint8_t)(0xE0 | c >> 12);
        p[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        p[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    p[0] = (uint8_t)(0xF0 | c >> 18);
    p[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    p[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    p[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

#define SHORT_STR 64 /* code points; longer non-ASCII strings are encoded on the heap */

/* Kept out of digest_key(), which recurses and must not carry this buffer along. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static int
digest_str(PyObject *key, uint64_t seed, uint64_t *digest)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(key) < 0) {
        return -1;
    }
#endif
    const Py_ssize_t length = PyUnicode_GET_LENGTH(key);

    if (PyUnicode_IS_ASCII(key)) {
        *digest = xxh64_tagged('s', PyUnicode_1BYTE_DATA(key), (size_t)length, seed);
        return 0;
    }
    if (length <= SHORT_STR) {
        uint8_t code[4 * SHORT_STR];
        size_t size = 0;
        const int kind = PyUnicode_KIND(key);
        const void *chars = PyUnicode_DATA(key);
        for (Py_ssize_t i = 0; i < length; i++) {
            size += write_utf8(code + size, PyUnicode_READ(kind, chars, i));
        }
        *digest = xxh64_tagged('s', code, size, seed);
        return 0;
    }
    PyObject *code = PyUnicode_AsEncodedString(key, "utf-8", "surrogatepass"); /* owned */
    if (code == NULL) {
        return -1;
    }
    *digest = xxh64_tagged('s', (const uint8_t *)PyBytes_AS_STRING(code), (size_t)PyBytes_GET_SIZE(code), seed);
    Py_DECREF(code);
    return 0;
}

#define SHORT_TUPLE 16 /* items; the digests of longer tuples are collected on the heap */

static int
digest_tuple(PyObject *module, PyObject *key, uint64_t seed, uint64_t *digest, int *hashed)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(key);
    uint8_t room[8 + 8 * SHORT_TUPLE];
    uint8_t *code = room;
    int result = -1;

    if (count > SHORT_TUPLE) {
        if ((size_t)count > PY_SSIZE_T_MAX / 8 - 1) {
            PyErr_NoMemory();
            return -1;
        }
        code = PyMem_Malloc(8 + 8 * (size_t)count);
        if (code == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    if (Py_EnterRecursiveCall(" while hashing a key")) {
        goto done;
    }
    write64(code, (uint64_t)count);
    result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        uint64_t item_digest = 0;
        /* Borrowed from an immutable tuple that the caller owns. */
        result = digest_key(module, PyTuple_GET_ITEM(key, i), 0, &item_digest, hashed);
        write64(code + 8 + 8 * i, item_digest);
    }
    Py_LeaveRecursiveCall();
    if (result == 0) {
        *digest = xxh64_tagged('(', code, 8 + 8 * (size_t)count, seed);
    }
done:
    if (code != room) {
        PyMem_Free(code);
    }
    return result;
}

static int
digest_frozenset(PyObject *module, PyObject *key, uint64_t seed, uint64_t *digest, int *hashed)
{
    PyObject *unified = unify_nan(module, key); /* owned */
    PyObject *members = NULL;                   /* owned */
    PyObject *member = NULL;                    /* owned */
    uint8_t code[16];
    uint64_t total = 0;
    int result = -1;

    if (unified == NULL) {
        goto done;
    }
    members = PyObject_GetIter(unified);
    if (members == NULL || Py_EnterRecursiveCall(" while hashing a key")) {
        goto done;
    }
    result = 0;
    while (result == 0 && (member = PyIter_Next(members)) != NULL) {
        uint64_t member_digest = 0;
        result = digest_key(module, member, 0, &member_digest, hashed);
        total += member_digest;
        Py_DECREF(member);
    }
    Py_LeaveRecursiveCall();
    if (result == 0 && PyErr_Occurred()) {
        result = -1;
    }
    write64(code, (uint64_t)PySet_GET_SIZE(unified));
    write64(code + 8, total);
    *digest = xxh64_tagged('{', code, sizeof code, seed);
done:
    Py_XDECREF(members);
    Py_XDECREF(unified);
    return result;
}

/* digest_other -- hash a key whose class the twin must judge. */
static int
digest_other(PyObject *module, PyObject *key, uint64_t seed, uint64_t *digest, int *hashed)
{
    PyObject *encoded = call_twin(module, "_encode", key); /* owned */
    int result = -1;

    if (encoded == NULL) {
        return -1;
    }
    PyObject *code = NULL; /* borrowed from encoded */
    int relies_on_hash = 0;
    if (PyArg_ParseTuple(encoded, "Sp", &code, &relies_on_hash)) {
        *digest = xxh64_tagged(
            NO_TAG, (const uint8_t *)PyBytes_AS_STRING(code), (size_t)PyBytes_GET_SIZE(code), seed);
        *hashed |= relies_on_hash;
        result = 0;
    }
    Py_DECREF(encoded);
    return result;
}

/* digest_key -- XXH64 of the canonical encoding of one key.
 *
 * key     borrowed; the caller keeps it alive for this call.
 * digest  set on success.
 * hashed  set to 1 if hash() of a user's class is in it, else left alone.
 *
 * Returns 0, or -1 with an exception. */
static int
digest_key(PyObject *module, PyObject *key, uint64_t seed, uint64_t *digest, int *hashed)
{
    const PyTypeObject *cls = Py_TYPE(key);

    if (PyUnicode_Check(key) && compares_like(cls, &PyUnicode_Type)) {
        return digest_str(key, seed, digest);
    }
    if (PyLong_Check(key) && compares_like(cls, &PyLong_Type)) {
        *digest = digest_number(PyObject_Hash(key), seed);
        return 0;
    }
    if (is_like_tuple(key)) {
        return digest_tuple(module, key, seed, digest, hashed);
    }
    if (PyFloat_CheckExact(key)) {
        *digest = isnan(PyFloat_AS_DOUBLE(key)) ? xxh64_tagged('?', NULL, 0, seed)
                                                : digest_number(PyObject_Hash(key), seed);
        return 0;
    }
    if (PyBytes_Check(key) && compares_like(cls, &PyBytes_Type)) {
        *digest = xxh64_tagged(
            'b', (const uint8_t *)PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key), seed);
        return 0;
    }
    if (key == Py_None || key == Py_Ellipsis) {
        *digest = xxh64_tagged(key == Py_None ? '0' : '.', NULL, 0, seed);
        return 0;
    }
    if (PyFrozenSet_CheckExact(key)) {
        return digest_frozenset(module, key, seed, digest, hashed);
    }
    return digest_other(module, key, seed, digest, hashed);
}

/* ---- estimates of memory; the formula is in _fallback.estimate_bytes() ---- */

#define ENTRY_BYTES 100
#define LIST_BYTES 72
#define POINTER_BYTES 8
#define SAMPLED_ITEMS 16
#define SAMPLED_DEPTH 2
#define MAX_BYTES ((int64_t)1 << 40)

static int64_t estimate_inside(PyObject *thing, int depth);

/* What a container takes, given the estimates of its first items. */
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

/* estimate_known -- estimate a thing of a builtin class, -1 for any other.  Runs no user code. */
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
            PyErr_Clear(); /* no memory to make it ready: take it for empty, its hash will complain */
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

/* estimate -- set *size to the estimate of one key or value; 0, or -1 with an exception of its __sizeof__. */
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

/* estimate_value -- the estimate of a list's further value: its pointer only, if it is the previous one again. */
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

/* ---- dicts of groups and folded values ---- */

/* raise_by_twin -- raise the exception that a function of the twin gives; it may give None. */
static int
raise_by_twin(PyObject *module, const char *function, PyObject *argument)
{
    PyObject *error = call_twin(module, function, argument); /* owned */

    if (error == NULL) {
        return -1;
    }
    if (error != Py_None) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_DECREF(error);
    return -1;
}

/* find -- set *found to a new reference to what a dict holds for a key, NULL if nothing; -1 on an error. */
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
    const char *dot = strrchr(name, '.'); /* builtin classes have their module before it */
    PyErr_Format(PyExc_TypeError, "the values of a group must be a list, got %.200s", dot ? dot + 1 : name);
    return -1;
}

/* insert -- set table[key] = value for a new key; adds what the entry takes to *used. */
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

/* combine -- new reference to `present` folded with `value`; COUNT adds counts. */
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

/* Whether a folded value may be taken for as large as the one before: itself, an int for an int, a float
 * for a float. */
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

/* ---- the same in a table of plain keys ---- */

#define LISTED (-1) /* the count of an entry whose value is the list of its values */

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

/* group_plain -- append_one() to a table: an entry has `count` times the same `value`, or a list.
 *
 * Returns 1, or 0 if the table is no use for this key, or -1 with an exception. */
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

/* add_plain -- add an int to a sum of ints in an entry; 0 if that takes more than 64 bits, or is no such sum. */
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

/* fold_plain -- fold_one() into a table: an entry has a value or, while that is NULL, the sum of ints in `count`.
 *
 * Returns as group_plain(). */
static int
fold_plain(struct table *table, PyObject *key, PyObject *value, int op, int64_t *used)
{
    const int adds = op == SUM || op == COUNT;
    const uint32_t size_before = table->size;
    struct entry *entry = NULL; /* borrowed; no code of a user's can reach the table */
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

/* pour -- move the entries of a table into an empty dict, in order; -1 with MemoryError.
 *
 * An exception that is set stays set. */
static int
pour(struct table *table, PyObject *dict, int op)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL; /* owned */
    int result = 0;

    PyErr_Fetch(&type, &error, &traceback);
    for (uint32_t i = 0; result == 0 && i < table->size; i++) {
        struct entry *entry = &table->entries[i];
        PyObject *value = NULL; /* owned */
        if (op != GROUP) {
            value = entry->value != NULL ? Py_NewRef(entry->value) : PyLong_FromLongLong(entry->count);
        }
        else if (entry->value == NULL) {
            continue; /* the key whose value could not be stored */
        }
        else {
            value = entry->count == LISTED ? Py_NewRef(entry->value) : repeat(entry->value, entry->count);
        }
        result = value == NULL ? -1 : PyDict_SetItem(dict, entry->key, value);
        Py_XDECREF(value);
        Py_CLEAR(entry->key); /* free as we go */
        Py_CLEAR(entry->value);
    }
    table_close(table);
    if (type != NULL) {
        PyErr_Restore(type, error, traceback);
    }
    return result;
}

/* ---- iterators of pairs ---- */

#define RECORDS_BETWEEN_SIGNALS 65536 /* so Ctrl-C also ends an endless iterator written in C */

/* next_pair -- take the next pair: 1, or 0 at the end, or -1 with an exception.
 *
 * key, value  set to new references. */
static inline int
next_pair(PyObject *module, PyObject *iterator, PyObject **key, PyObject **value)
{
    PyObject *pair = PyIter_Next(iterator); /* owned */
    int result = 1;

    if (pair == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        *key = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        *value = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    }
    else if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2) {
        *key = Py_NewRef(PyList_GET_ITEM(pair, 0));
        *value = Py_NewRef(PyList_GET_ITEM(pair, 1));
    }
    else {
        result = raise_by_twin(module, "_pair_error", pair);
    }
    Py_DECREF(pair);
    return result;
}

/* check_op -- 0 if op is one of the five folds, else -1 with ValueError. */
static int
check_op(long op)
{
    if (SUM <= op && op <= FIRST) {
        return 0;
    }
    PyErr_Format(
        PyExc_ValueError, "the fold must be one of SUM=1, COUNT=2, MIN=3, MAX=4, FIRST=5, got %ld", op);
    return -1;
}

/* put -- put one pair into the dict; 0, or -1 with an exception. */
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

/* consume -- group() and fold(): put pairs into a dict until `used >= budget`.
 *
 * They go to a table first, as long as keys are plain; whatever happens, it is poured into the dict. */
static PyObject *
consume(PyObject *module, PyObject *pairs, PyObject *dict, int op, int64_t budget)
{
    PyObject *iterator = PyObject_GetIter(pairs); /* owned */
    PyObject *one = PyLong_FromLong(1);           /* owned */
    PyObject *previous = NULL;                    /* owned: its address must not be another value's */
    PyObject *result = NULL;
    struct table table = {0};
    int is_plain = PyDict_GET_SIZE(dict) == 0;
    int64_t used = 0, records = 0;
    int got = -1;

    if (iterator == NULL || one == NULL || (is_plain && table_open(&table) < 0)) {
        goto done;
    }
    for (;;) {
        PyObject *key = NULL;   /* owned */
        PyObject *value = NULL; /* owned, by `previous` in the end */
        int stored = 0;         /* as group_plain() returns */
        got = next_pair(module, iterator, &key, &value);
        if (got <= 0) {
            break;
        }
        if (op == COUNT) {
            Py_SETREF(value, Py_NewRef(one));
        }
        if (is_plain) {
            stored = op == GROUP ? group_plain(&table, key, value, previous, &used)
                                 : fold_plain(&table, key, value, op, &used);
            if (stored == 0) {
                is_plain = 0;
                stored = pour(&table, dict, op);
            }
        }
        if (!is_plain && stored == 0) {
            stored = put(module, dict, key, value, previous, op, &used);
        }
        Py_DECREF(key);
        Py_XSETREF(previous, value);
        records++;
        if (stored < 0 || (records % RECORDS_BETWEEN_SIGNALS == 0 && PyErr_CheckSignals() < 0)) {
            got = -1;
            break;
        }
        if (used >= budget) {
            break;
        }
    }
    if (is_plain && pour(&table, dict, op) < 0) {
        got = -1;
    }
    if (got >= 0) {
        result = Py_BuildValue("(OLL)", got ? Py_False : Py_True, (long long)used, (long long)records);
    }
done:
    table_close(&table);
    Py_XDECREF(previous);
    Py_XDECREF(one);
    Py_XDECREF(iterator);
    return result;
}

/* check_key -- 0 if a key may be one, or -1 with the TypeError that storing or hashing it would raise.
 *
 * Nearly all keys are of a class that needs no look inside. */
static inline int
check_key(PyObject *module, PyObject *key)
{
    uint64_t digest = 0;
    int hashed = 0;

    if (PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyFloat_CheckExact(key)
        || PyBytes_CheckExact(key) || key == Py_None) {
        return 0;
    }
    return digest_key(module, key, 0, &digest, &hashed);
}

/* take -- the next records of an iterator as a list, each checked; NULL with an exception. */
static PyObject *
take(PyObject *module, PyObject *records, Py_ssize_t limit)
{
    PyObject *iterator = PyObject_GetIter(records); /* owned */
    PyObject *taken = PyList_New(0);                /* owned */
    PyObject *record = NULL;                        /* owned */
    int result = iterator == NULL || taken == NULL ? -1 : 0;

    while (result == 0 && PyList_GET_SIZE(taken) < limit && (record = PyIter_Next(iterator)) != NULL) {
        PyObject *key = NULL; /* owned: the check may run Python, which may empty the record */
        if (PyTuple_Check(record) && PyTuple_GET_SIZE(record) == 2) {
            key = Py_NewRef(PyTuple_GET_ITEM(record, 0));
        }
        else if (PyList_Check(record) && PyList_GET_SIZE(record) == 2) {
            key = Py_NewRef(PyList_GET_ITEM(record, 0));
        }
        if (key == NULL) {
            result = raise_by_twin(module, "_pair_error", record);
        }
        else if (check_key(module, key) < 0 || PyList_Append(taken, record) < 0) {
            result = -1;
        }
        Py_XDECREF(key);
        Py_DECREF(record);
    }
    if (result == 0 && PyErr_Occurred()) {
        result = -1;
    }
    Py_XDECREF(iterator);
    if (result < 0) {
        Py_CLEAR(taken);
    }
    return taken;
}

/* ---- the records of items, one item after another ---- */

/* What `_fallback.map_items` keeps between two records. All are owned; `records` is NULL between two items. */
struct mapping {
    PyObject_HEAD
    PyObject *items, *mark, *mapfn, *pairs_of, *failed, *large;
    Py_ssize_t limit;
    PyObject *records; /* a list of our own, which nobody else has seen unless `failed` gave it */
    Py_ssize_t given;  /* records of it that were given */
};

static int
mapping_traverse(struct mapping *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->items);
    Py_VISIT(self->mark);
    Py_VISIT(self->mapfn);
    Py_VISIT(self->pairs_of);
    Py_VISIT(self->failed);
    Py_VISIT(self->large);
    Py_VISIT(self->records);
    return 0;
}

static int
mapping_clear(struct mapping *self)
{
    Py_CLEAR(self->items);
    Py_CLEAR(self->mark);
    Py_CLEAR(self->mapfn);
    Py_CLEAR(self->pairs_of);
    Py_CLEAR(self->failed);
    Py_CLEAR(self->large);
    Py_CLEAR(self->records);
    return 0;
}

static void
mapping_dealloc(struct mapping *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    mapping_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* records_of -- call mapfn on an item; set *output to an iterator and *taken to its first records, both owned. */
static int
records_of(PyObject *module, struct mapping *self, PyObject *key, PyObject *value, PyObject **output, PyObject **taken)
{
    PyObject *args[] = {key, value};                                        /* borrowed */
    PyObject *result = PyObject_Vectorcall(self->mapfn, args, 2, NULL); /* owned */

    if (result != NULL && !PyGen_CheckExact(result)) {
        Py_SETREF(result, PyObject_CallOneArg(self->pairs_of, result));
    }
    *output = result;
    *taken = result == NULL ? NULL : take(module, result, self->limit);
    return *taken == NULL ? -1 : 0;
}

/* ask_failed -- what `failed` makes of an item whose mapfn raised: its records, or None, or NULL with an exception. */
static PyObject *
ask_failed(struct mapping *self, PyObject *position, PyObject *key, PyObject *value)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL, *answer = NULL; /* owned */

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *args[] = {position, key, value, error}; /* borrowed */
    answer = PyObject_Vectorcall(self->failed, args, 4, NULL);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (answer != NULL && answer != Py_None && !PyList_Check(answer)) {
        PyErr_Format(PyExc_TypeError, "failed() must return a list or None, not %.200s", Py_TYPE(answer)->tp_name);
        Py_CLEAR(answer);
    }
    return answer;
}

/* map_next -- map the next item: 1 if its records are there, 0 at the end, -1 with an exception. */
static int
map_next(PyObject *module, struct mapping *self)
{
    PyObject *item = PyIter_Next(self->items);                           /* owned */
    PyObject *position = NULL, *key = NULL, *value = NULL;               /* borrowed from the item */
    PyObject *output = NULL, *taken = NULL, *marked = NULL, *told = NULL; /* owned */
    int result = -1;

    if (item == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 3) {
        PyErr_SetString(PyExc_TypeError, "items must be tuples of (position, key, value)");
        goto done;
    }
    position = PyTuple_GET_ITEM(item, 0);
    key = PyTuple_GET_ITEM(item, 1);
    value = PyTuple_GET_ITEM(item, 2);
    marked = PyObject_CallFunctionObjArgs(self->mark, position, key, NULL);
    if (marked == NULL) {
        goto done;
    }
    if (records_of(module, self, key, value, &output, &taken) < 0) {
        taken = ask_failed(self, position, key, value);
        if (taken == NULL || taken == Py_None) {
            result = taken == NULL ? -1 : 0;
            Py_CLEAR(taken);
            goto done;
        }
    }
    else if (PyList_GET_SIZE(taken) >= self->limit) {
        PyObject *args[] = {position, key, value, taken, output}; /* borrowed */
        told = PyObject_Vectorcall(self->large, args, 5, NULL);
        result = told == NULL ? -1 : 0;
        goto done;
    }
    Py_XSETREF(self->records, Py_NewRef(taken));
    self->given = 0;
    result = 1;
done:
    Py_XDECREF(told);
    Py_XDECREF(marked);
    Py_XDECREF(taken);
    Py_XDECREF(output);
    Py_DECREF(item);
    return result;
}

static PyObject *
mapping_next(struct mapping *self)
{
    PyObject *module = NULL; /* borrowed */

    for (;;) {
        if (self->records != NULL) {
            if (self->given < PyList_GET_SIZE(self->records)) {
                return Py_NewRef(PyList_GET_ITEM(self->records, self->given++));
            }
            Py_CLEAR(self->records);
        }
        if (module == NULL && (module = PyType_GetModule(Py_TYPE(self))) == NULL) {
            return NULL;
        }
        if (map_next(module, self) <= 0) {
            return NULL;
        }
    }
}

static PyType_Slot mapping_slots[] = {
    {Py_tp_doc, "What map_items() returns."},
    {Py_tp_traverse, mapping_traverse},
    {Py_tp_clear, mapping_clear},
    {Py_tp_dealloc, mapping_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, mapping_next},
    {0, NULL},
};

static PyType_Spec mapping_spec = {
    .name = "mmgevent._speedups._core.Mapping",
    .basicsize = sizeof(struct mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = mapping_slots,
};

/* ---- the functions of the module ---- */

/* parse_seed -- the low 64 bits of an int, 0 if it is missing; -1 with TypeError. */
static int
parse_seed(PyObject *object, uint64_t *seed)
{
    *seed = object == NULL ? 0 : PyLong_AsUnsignedLongLongMask(object);
    return PyErr_Occurred() ? -1 : 0;
}

/* parse_count -- a number of partitions; -1 with ValueError out of range, TypeError for no int. */
static int
parse_count(PyObject *object, uint64_t *count)
{
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);

    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow || number < 1 || number >= 1LL << 32) {
        PyErr_Format(
            PyExc_ValueError, "the number of partitions must be from 1 to 2**32 - 1, got %R", object);
        return -1;
    }
    *count = (uint64_t)number;
    return 0;
}

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

/* number_keys -- write the partition of each key and count the keys of each partition.
 *
 * keys     a list nobody else sees.
 * numbers  as long as keys; filled.
 * sizes    as long as there are partitions, all 0; filled. */
static int
number_keys(
    PyObject *module, PyObject *keys, uint64_t count, uint64_t seed, uint32_t *numbers, Py_ssize_t *sizes,
    int *hashed)
{
    const int is_power = (count & (count - 1)) == 0; /* the usual case, and a division is half the work */

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

/* make_parts -- a list of (keys, values), both lists still empty slots, or None where sizes[p] is 0. */
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

/* deal -- move keys and values into the slots of their parts, in order.  Cannot fail, runs no user code.
 *
 * sizes  room left in each part: counted down to 0. */
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

static PyObject *
core_scatter(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"groups", "count", "seed", NULL};
    PyObject *groups = NULL, *count_object = NULL, *seed_object = NULL; /* borrowed from args */
    PyObject *keys = NULL, *values = NULL;                              /* owned: copies that stay as they are */
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

/* check_columns -- 0 if both lists are equally long, else -1 with ValueError. */
static int
check_columns(PyObject *keys, PyObject *values)
{
    if (PyList_GET_SIZE(keys) == PyList_GET_SIZE(values)) {
        return 0;
    }
    PyErr_Format(
        PyExc_ValueError, "there must be one value for each key, got %zd keys, %zd values",
        PyList_GET_SIZE(keys), PyList_GET_SIZE(values));
    return -1;
}

/* extend_one -- extend the list of a key by another list, or make that one the key's. */
static int
extend_one(PyObject *module, PyObject *groups, PyObject *key, PyObject *more, int64_t *used)
{
    PyObject *values = NULL;   /* owned */
    PyObject *previous = NULL; /* owned */
    int result = 0;

    if (check_list(more) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(more); i++) {
        PyObject *value = Py_NewRef(PyList_GET_ITEM(more, i)); /* owned, by `previous` in the end */
        int64_t size = 0;
        result = estimate_value(value, previous, &size);
        *used += size;
        Py_XSETREF(previous, value);
    }
    Py_XDECREF(previous);
    if (result < 0 || find(module, groups, key, &values) < 0) {
        return -1;
    }
    if (values == NULL) {
        *used += LIST_BYTES;
        return insert(groups, key, more, used);
    }
    result = check_list(values);
    if (result == 0) {
        result = PyList_SetSlice(values, PyList_GET_SIZE(values), PyList_GET_SIZE(values), more);
    }
    Py_DECREF(values);
    return result;
}

enum merge { GROUPED, FLAT, FOLD };

/* merge -- the three merge functions: put (keys[i], values[i]) into a dict; returns `used`. */
static PyObject *
merge(PyObject *module, PyObject *table, PyObject *keys, PyObject *values, enum merge how, int op)
{
    PyObject *previous = NULL; /* owned */
    int64_t used = 0;
    int result = check_columns(keys, values);

    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(keys) && i < PyList_GET_SIZE(values); i++) {
        PyObject *raw = Py_NewRef(PyList_GET_ITEM(keys, i));     /* owned */
        PyObject *value = Py_NewRef(PyList_GET_ITEM(values, i)); /* owned, by `previous` in the end */
        PyObject *key = unify_nan(module, raw);                  /* owned */
        if (key == NULL) {
            result = -1;
        }
        else if (how == GROUPED) {
            result = extend_one(module, table, key, value, &used);
        }
        else if (how == FLAT) {
            result = append_one(module, table, key, value, previous, &used);
        }
        else {
            result = fold_one(module, table, key, value, op, &used);
        }
        Py_XDECREF(key);
        Py_DECREF(raw);
        Py_XSETREF(previous, value);
    }
    Py_XDECREF(previous);
    return result < 0 ? NULL : PyLong_FromLongLong(used);
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

/* Called once an item, so its arguments are by position, which saves a fifth of what a short item costs. */
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

static PyObject *
core_map_items(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = NULL;       /* owned */
    struct mapping *self = NULL; /* owned */
    Py_ssize_t limit = 0;

    if (count != 7) {
        PyErr_Format(PyExc_TypeError, "map_items() takes 7 positional arguments, got %zd", count);
        return NULL;
    }
    limit = PyLong_AsSsize_t(args[6]);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    type = PyObject_GetAttrString(module, "_Mapping");
    if (type == NULL) {
        return NULL;
    }
    self = PyObject_GC_New(struct mapping, (PyTypeObject *)type);
    Py_DECREF(type);
    if (self == NULL) {
        return NULL;
    }
    self->items = PyObject_GetIter(args[0]);
    self->mark = Py_NewRef(args[1]);
    self->mapfn = Py_NewRef(args[2]);
    self->pairs_of = Py_NewRef(args[3]);
    self->failed = Py_NewRef(args[4]);
    self->large = Py_NewRef(args[5]);
    self->limit = limit;
    self->records = NULL;
    self->given = 0;
    PyObject_GC_Track((PyObject *)self);
    if (self->items == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void)) function, METH_VARARGS | METH_KEYWORDS

static PyMethodDef module_methods[] = {
    {"xxh64", WITH_KEYWORDS(core_xxh64), "xxh64(data, seed=0)\n\nReturn XXH64 of a bytes-like object."},
    {"hash_key", WITH_KEYWORDS(core_hash_key), "hash_key(key, seed=0)\n\nSee _encoding.hash_key."},
    {"is_hashed", core_is_hashed, METH_O, "is_hashed(key)\n\nSee _encoding.is_hashed."},
    {"unify_nan", unify_nan, METH_O, "unify_nan(key)\n\nSee _encoding.unify_nan."},
    {"estimate_bytes", core_estimate_bytes, METH_O, "estimate_bytes(thing)\n\nSee _fallback.estimate_bytes."},
    {"partition", WITH_KEYWORDS(core_partition), "partition(key, count, seed=0)\n\nSee _fallback.partition."},
    {"group", WITH_KEYWORDS(core_group), "group(pairs, groups, budget)\n\nSee _fallback.group."},
    {"fold", WITH_KEYWORDS(core_fold), "fold(pairs, table, op, budget)\n\nSee _fallback.fold."},
    {"take", (PyCFunction)(void (*)(void)) core_take, METH_FASTCALL, "take(records, limit)\n\nSee _fallback.take."},
    {"map_items", (PyCFunction)(void (*)(void)) core_map_items, METH_FASTCALL,
     "map_items(items, mark, mapfn, pairs_of, failed, large, limit)\n\nSee _fallback.map_items."},
    {"scatter", WITH_KEYWORDS(core_scatter), "scatter(groups, count, seed=0)\n\nSee _fallback.scatter."},
    {"merge_grouped", WITH_KEYWORDS(core_merge_grouped),
     "merge_grouped(groups, keys, values)\n\nSee _fallback.merge_grouped."},
    {"merge_flat", WITH_KEYWORDS(core_merge_flat),
     "merge_flat(groups, keys, values)\n\nSee _fallback.merge_flat."},
    {"merge_fold", WITH_KEYWORDS(core_merge_fold),
     "merge_fold(table, keys, values, op)\n\nSee _fallback.merge_fold."},
    {NULL, NULL, 0, NULL},
};

/* module_exec -- keep the twin's functions and our class as attributes, so that the module needs no state of its own. */
static int
module_exec(PyObject *module)
{
    static const char *const names[][2] = {
        {"encode", "_encode"},
        {"unify_nan", "_unify_nan"},
        {"unhashable_error", "_unhashable_error"},
        {"pair_error", "_pair_error"},
    };
    PyObject *twin = PyImport_ImportModule("mmgevent._speedups._fallback"); /* owned */
    int result = twin == NULL ? -1 : 0;

    for (size_t i = 0; result == 0 && i < sizeof names / sizeof names[0]; i++) {
        PyObject *function = PyObject_GetAttrString(twin, names[i][0]); /* owned */
        result = function == NULL ? -1 : PyObject_SetAttrString(module, names[i][1], function);
        Py_XDECREF(function);
    }
    Py_XDECREF(twin);
    if (result == 0) {
        PyObject *type = PyType_FromModuleAndSpec(module, &mapping_spec, NULL); /* owned */
        result = type == NULL ? -1 : PyObject_SetAttrString(module, "_Mapping", type);
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
