/* Arguments that several functions take: seeds, numbers of partitions, folds. */

#ifndef MMGEVENT_ARGUMENTS_H
#define MMGEVENT_ARGUMENTS_H

#include <Python.h>
#include <stdint.h>

#include "_groups.h"

/* parse_seed -- set *seed to the low 64 bits of an int, 0 if it is missing; -1 with TypeError. */
static int
parse_seed(PyObject *object, uint64_t *seed)
{
    *seed = object == NULL ? 0 : PyLong_AsUnsignedLongLongMask(object);
    return PyErr_Occurred() ? -1 : 0;
}

/* parse_count -- set *count to a number of partitions.
 *
 * Returns 0, or -1 with ValueError if it is out of range, with TypeError if it is no int. */
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

#endif
