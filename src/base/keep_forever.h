// What a thread may still use that will never be heard of again: a step that hangs inside a driver
// can be neither ended nor waited for, so its memory is given up with it. Kept on purpose until the
// process ends, and never destroyed. Thread-safe.
#pragma once

#include <memory>

namespace impetus {

void keep_forever(std::shared_ptr<const void> what);

}  // namespace impetus
