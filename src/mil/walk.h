// A walk over a function's operations in order, each with the types and constant values of what it
// reads. Validation, the interpreter and the Neural Engine's check stand on it.
//
// Types are those that the program declares: validate() (operations.h) holds them to the rules.
// Nothing is copied but types; what a visit hands out lives as long as the Function. Any thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "mil/limits.h"
#include "mil/operations.h"
#include "mil/program.h"

namespace impetus::mil {

struct Visit {
  const Operation& operation;
  // Its inputs by parameter, resolved; for constexpr_* of CoreML6 its attributes too (without
  // "name"), for const its "val".
  const Operands& operands;
  const OperationSpec* spec;  // in the function's opset; null: the table does not know it
  Opset opset;
  int depth;   // 0 in the function's own block
  bool fixed;  // its results are known before the program runs (Operand::fixed)

  std::string where() const;  // "operation scores (softmax)"
};

using Visitor = std::function<Result<void>(const Visit&)>;

// Visits each operation of the function's own block, those of nested blocks directly after the
// operation that holds them. An error of the visitor ends the walk and is returned as it is. Errors
// of the walk's own (corrupt): no block, an opset that is unknown (unsupported), a name that is
// defined twice or used before its definition, a block output that nothing defines, nesting past
// kBlockDepthMax. Names of sibling blocks are apart; a nested block sees those around it and may
// not define them anew.
Result<void> walk(const Function& function, const Visitor& visit);

// What the function's block gives, in its order, with declared types.
Result<std::vector<NamedType>> outputs_of(const Function& function);

}  // namespace impetus::mil
