/* The library itself: which version it is, and which variants of its loops this processor can run. */

#include "native.h"

EXPORT int objectness_abi(void) { return OBJECTNESS_ABI; }

/* The best variant for this processor and its operating system. */
EXPORT int objectness_best_variant(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return VARIANT_AVX512;
    if (__builtin_cpu_supports("avx2"))
        return VARIANT_AVX2;
#endif
    return VARIANT_PLAIN;
}

/* What setuptools asks of an extension where symbols are exported by name. Nobody imports this one: ctypes loads it. */
EXPORT void *PyInit__native(void) { return 0; }
