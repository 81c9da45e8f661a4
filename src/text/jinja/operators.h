// Python's operators on template values. All fail with TemplateError where Python raises.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace impetus::jinja {

Value arithmetic(Operation operation, const Value& left, const Value& right, Budget& budget);
Value negate(const Value& value);
Value positive(const Value& value);
bool compare_as(Comparison comparison, const Value& left, const Value& right, Budget& budget);

// object.name: a method or property first, then an item. Undefined (with the reason) where neither.
Value get_attribute(const Value& object, const std::string& name, Budget& budget);
// object[key]: an item first, then an attribute.
Value get_item(const Value& object, const Value& key, Budget& budget);
// object[start:stop:step]; bounds are undefined values where left out.
Value get_slice(const Value& object, const Value* start, const Value* stop, const Value* step,
                Budget& budget);

}  // namespace impetus::jinja
