/* The number of the sources that this library was compiled from: engine/native/build.py. */
#include "kernels.h"

API int64_t fiddler_fingerprint(void) { return FIDDLER_FINGERPRINT; }
