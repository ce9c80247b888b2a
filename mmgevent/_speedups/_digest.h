/* Hash keys: XXH64 of the canonical encoding of docs/keys.md, as _encoding.py gives it.
 *
 * Builtin classes are hashed here, and subclasses that inherit both slots, tp_hash and
 * tp_richcompare: in C that means "overrides neither __hash__ nor __eq__".  Every other key goes
 * through encode() of the twin.
 *
 * NaN is looked for here as well: all NaNs are one key, so one object replaces them. */

#ifndef MMGEVENT_DIGEST_H
#define MMGEVENT_DIGEST_H

#include <Python.h>
#include <math.h>
#include <stdint.h>

#include "_number_hash.h"
#include "_twin.h"
#include "_xxh64.h"

/* Return whether instances of cls, a subclass of base, hash and compare with base's own functions. */
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

/* may_have_nan -- 1 if unify_nan() must look at this key, 0 if it has no NaN, -1 with an exception. */
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

/* unify_nan -- new reference to the key, or to an equal key with every NaN replaced by the one NAN. */
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

static uint64_t
digest_real(double number, uint64_t seed)
{
    return isnan(number) ? xxh64_tagged('?', NULL, 0, seed) : digest_number(hash_real(number), seed);
}

/* write_utf8 -- write one code point, surrogates included; returns the bytes written, at most 4. */
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

/* Never inlined: digest_key() recurses, and this buffer would be in each of its frames. */
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

/* digest_other -- hash a key whose class only the twin can judge. */
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
 * hashed  set to 1 if the digest relies on hash() of a user's class, else not changed.
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
        *digest = digest_real(PyFloat_AS_DOUBLE(key), seed);
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

#endif
