/* Call the Python twin for what is rare.
 *
 * module_exec() puts four functions of _fallback.py into the module.  They judge keys of unusual
 * classes and make the errors, so there is one place that tells classes apart and one text of each
 * error. */

#ifndef MMGEVENT_TWIN_H
#define MMGEVENT_TWIN_H

#include <Python.h>

/* call_twin -- call one of the functions that module_exec() put into the module; new reference or NULL. */
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

/* raise_by_twin -- raise the exception that a function of the twin returns.
 *
 * Always returns -1.  No exception is set if the function returned None. */
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

/* is_block -- 1 if a record is a Block, 0 if it is not, -1 with an exception. */
static int
is_block(PyObject *module, PyObject *record)
{
    PyObject *cls = PyObject_GetAttrString(module, "_Block"); /* owned */
    int result = -1;

    if (cls != NULL) {
        result = PyType_IsSubtype(Py_TYPE(record), (PyTypeObject *)cls);
        Py_DECREF(cls);
    }
    return result;
}

/* keep_raising -- make a RuntimeError of a StopIteration that is set, as in a generator.
 *
 * From an iterator of ours it would be the end of the records, and nobody would miss the others. */
static void
keep_raising(void)
{
    PyObject *type = NULL, *stop = NULL, *traceback = NULL; /* owned */
    PyObject *error = NULL;                                 /* owned */

    if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return;
    }
    PyErr_Fetch(&type, &stop, &traceback);
    PyErr_NormalizeException(&type, &stop, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(stop, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    PyErr_SetString(PyExc_RuntimeError, "generator raised StopIteration");
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyException_SetCause(error, Py_NewRef(stop));
    PyException_SetContext(error, stop);
    PyErr_Restore(type, error, traceback);
}

#endif
