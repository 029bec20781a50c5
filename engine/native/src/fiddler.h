/* What every source of the library shares. Plain C11: no state, no Python, no threads. */
#ifndef FIDDLER_H
#define FIDDLER_H

#include <stdint.h>

#define API __attribute__((visibility("default")))

#endif
