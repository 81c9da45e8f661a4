#pragma once
#include <stddef.h>
extern "C" char* strdup(const char* text);
extern "C" int strcmp(const char* a, const char* b);
