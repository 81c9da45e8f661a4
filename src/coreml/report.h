// A check's report as JSON; its fields stand in docs/neural-engine.md. Pure: any thread.
#pragma once

#include "base/json.h"
#include "coreml/check.h"

namespace impetus::coreml {

json::object to_json(const CheckReport& report);

}  // namespace impetus::coreml
