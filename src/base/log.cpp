#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace impetus::log {

void start(const std::string& level) {
  auto logger = spdlog::stderr_color_mt("impetus");
  logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace impetus::log
