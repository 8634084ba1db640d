/*
 * The module audit_buffer._speedups: what _usual.c, _frame.c and sinks/_rows.c do. It is built where there is a compiler, and an interpreter with a lock.
 */

#include "_speedups.h"

#ifdef Py_GIL_DISABLED
#error "needs the interpreter's lock; audit_buffer works without this module"
#endif

#define FUNCTION(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}

static PyMethodDef functions[] = {
    FUNCTION(encode_usual, "Encode a row of the codec's format into a buffer, if it needs no closer look; tell whether it did not."),
    FUNCTION(is_json, "Tell whether a value is plain JSON of at most so many levels."),
    FUNCTION(store_payload, "Store an entry's payload, and return its header, which makes it exist."),
    FUNCTION(read_lap, "Read entries up to a bound, the end of a lap, or what is no record."),
    FUNCTION(make_rows, "Make rows of audit_log from the entries of a batch."),
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, read_max_lengths},
    {Py_mod_exec, fill_slices},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "What is done for each entry and is only work on bytes and types; each function has a twin in Python.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
