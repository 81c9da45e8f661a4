// The syntax tree of a template. Immutable after parse, shared by all renders.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace impetus::jinja {

struct Position {
  uint32_t line = 0;
  uint32_t column = 0;
};

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class Operation : uint8_t {
  constant,     // constant
  name,         // text
  list,         // operands
  tuple,        // operands
  dict,         // operands: key, value, key, value ...
  negate,       // [x]
  positive,     // [x]
  logical_not,  // [x]
  logical_and,  // [a, b]
  logical_or,   // [a, b]
  add,          // [a, b], and so on
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate,  // operands, two or more
  compare,      // operands a, b, c ...; comparisons between them
  conditional,  // [condition, then, otherwise or null]
  attribute,    // [object], text
  item,         // [object, key]
  slice,        // [object, start or null, stop or null, step or null]
  call,         // [callee], arguments
  filter,       // [subject or null in block filters], text, arguments
  test,         // [subject], text, arguments
};

enum class Comparison : uint8_t { eq, ne, lt, le, gt, ge, in, not_in };

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star;       // *expression
  ExpressionPtr star_star;  // **expression
};

struct Expression {
  Operation operation = Operation::constant;
  Position position;
  int depth = 1;
  std::string text;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<Comparison> comparisons;
  CallArguments arguments;
};

// What can stand left of "=": a name, a namespace's attribute, or a tuple of these.
struct Target {
  Position position;
  std::string name;
  std::string attribute;
  std::vector<Target> parts;  // not empty: a tuple
};

struct Macro {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // null: no default
  Body body;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Statement {
  enum class Type : uint8_t {
    text,        // text
    print,       // expression
    branch,      // branches, otherwise
    loop,        // target in expression if condition: body, otherwise
    assign,      // target = expression
    capture,     // target = body through expression (a filter or null)
    macro,       // macro
    call,        // expression is a call; macro is its caller()
    filter,      // body through expression
    scope,       // assignments (with), body
    generation,  // body in a scope of its own
    loop_break,
    loop_continue,
  };
  Type type = Type::text;
  Position position;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  Target target;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Body body;
  Body otherwise;
  std::unique_ptr<Macro> macro;
};

}  // namespace impetus::jinja
