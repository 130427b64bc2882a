/* What every kernel of the library shares: how a function is exported, and the variants it may have.

   A kernel is ordinary C11. It gets pointers to float32 tensors of the CPU, allocates what it needs once a call, and
   returns a count, or one of the errors below. It knows nothing of Python. */

#ifndef OBJECTNESS_NATIVE_H
#define OBJECTNESS_NATIVE_H

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Raised with every change of an exported function; library.py expects this very number. */
enum { OBJECTNESS_ABI = 4 };

/* Sets of instructions that hot loops are compiled for; library.py has the same order. */
enum { VARIANT_PLAIN, VARIANT_AVX2, VARIANT_AVX512, NUM_VARIANTS };

enum { ERROR_MEMORY = -1 };

#endif
