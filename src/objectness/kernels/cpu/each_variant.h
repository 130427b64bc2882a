/* Compile the file LOOPS once for every variant: define LOOPS, include this. No guard, since it may be included again.

   In LOOPS a function is called NAME(add), and becomes add_plain, add_avx2, add_avx512; what stands there should be few
   and short loops that the compiler turns into vector code. Only x86-64 needs the choice at run time; elsewhere, and
   with other compilers than gcc and clang, add_avx2 and add_avx512 do not exist. VARIANTS(add) lists what there is,
   indexed by VARIANT_*. */

#undef NAME
#define NAME(function) function##_plain
#include LOOPS
#undef NAME

#if defined(__x86_64__) && defined(__clang__)

#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#define NAME(function) function##_avx2
#include LOOPS
#undef NAME
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#define NAME(function) function##_avx512
#include LOOPS
#undef NAME
#pragma clang attribute pop

#elif defined(__x86_64__) && defined(__GNUC__)

#pragma GCC push_options
#pragma GCC target("avx2")
#define NAME(function) function##_avx2
#include LOOPS
#undef NAME
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#define NAME(function) function##_avx512
#include LOOPS
#undef NAME
#pragma GCC pop_options

#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define VARIANTS(function) {function##_plain, function##_avx2, function##_avx512}
#else
#define VARIANTS(function) {function##_plain, function##_plain, function##_plain}
#endif

#undef LOOPS
