// Tokens to a syntax tree. Grammar: the Jinja 3.1 template designer documentation; what chat
// templates have no use for (inheritance, imports, recursive loops, translations) is refused by
// name.
#pragma once

#include <string_view>

#include "text/jinja/ast.h"

namespace impetus::jinja {

// Fails with TemplateError, line and column set.
Body parse_template(std::string_view source);

}  // namespace impetus::jinja
