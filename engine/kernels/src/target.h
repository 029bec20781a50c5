/* Compiles what follows, up to TARGET_END, for an instruction set that the machine at hand may lack:
 * TARGET(list). */
#define TARGET_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TARGET(list) \
    TARGET_PRAGMA(clang attribute push(__attribute__((target(list))), apply_to = function))
#define TARGET_END TARGET_PRAGMA(clang attribute pop)
#else
#define TARGET(list) TARGET_PRAGMA(GCC target(list))
#define TARGET_END
#endif
