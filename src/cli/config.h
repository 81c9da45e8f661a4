// The configuration file: TOML whose keys are `serve`'s options without their dashes.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace impetus::cli {

// For `serve`: adds what the file says (--config FILE, else IMPETUS_CONFIG, else
// ~/.impetus/config.toml where it exists) unless the command line or the environment says it
// already. Takes --config out of `arguments`.
Result<void> merge_config_file(std::vector<std::string>& arguments);

}  // namespace impetus::cli
