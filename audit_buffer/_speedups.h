/*
 * What is done in C where a compiler is found. Each function that Python calls has a twin there, which stands in for it, in the module
 * whose name its file has; the others prepare tables when the module is imported.
 */

#ifndef AUDIT_BUFFER_SPEEDUPS_H
#define AUDIT_BUFFER_SPEEDUPS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* _usual.c */
PyObject *encode_usual(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *is_json(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
int read_max_lengths(PyObject *module);

/* _frame.c */
PyObject *store_payload(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *read_lap(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
int fill_slices(PyObject *module);

/* sinks/_rows.c */
PyObject *make_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
