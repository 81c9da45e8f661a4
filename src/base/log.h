// Logging: spdlog to standard error, so that standard output stays the program's answer.
#pragma once

#include <spdlog/spdlog.h>

namespace impetus::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

// Called once by main before any thread starts. `level`: trace, debug, info, warn, error, off.
void start(const std::string& level);

}  // namespace impetus::log
