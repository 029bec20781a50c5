/* Says which sources this library was made of: build.py passes the number, the loader asks. */
#include "fiddler.h"

API int64_t fiddler_fingerprint(void);

API int64_t fiddler_fingerprint(void) { return FIDDLER_FINGERPRINT; }
