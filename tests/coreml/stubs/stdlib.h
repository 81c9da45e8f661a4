// Of C's library, what apple_bridge.mm uses.
#pragma once
#include <stddef.h>
extern "C" void free(void* memory);
