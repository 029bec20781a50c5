/* Compiles what follows for an instruction set that the machine at hand may lack: TARGET(list). */
#define TARGET_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TARGET(list) \
    TARGET_PRAGMA(clang attribute push(__attribute__((target(list))), apply_to = function))
#else
#define TARGET(list) TARGET_PRAGMA(GCC target(list))
#endif
