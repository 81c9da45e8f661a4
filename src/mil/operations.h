// MIL's operations as data: which parameters each has in which opset, and the rule that gives its
// results' types. Builder, validation, interpreter and the Neural Engine's check read this one
// table.
//
// Parameters are all written out, always: the Core ML runtime refuses omissions that coremltools'
// Python builders silently fill in ("Required param 'pad' is missing"), so the table knows no
// defaults for writers. Readers accept what coremltools leaves out: `optional` parameters.
// Source of names, parameters and type rules: coremltools/converters/mil/mil/ops/defs.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::mil {

// One bound parameter, as a type rule sees it.
struct Operand {
  ValueType type;
  const Value* constant = nullptr;  // where it is known before the program runs
};

// Of one operation; CoreML6's constexpr_* parameters (attributes) stand here too.
class Operands {
 public:
  // Null where the parameter is not bound, or is bound to several.
  const Operand* find(std::string_view parameter) const;
  std::span<const Operand> all(std::string_view parameter) const;
  void add(std::string_view parameter, Operand operand);

 private:
  std::map<std::string, std::vector<Operand>, std::less<>> bound_;
};

struct ParameterSpec {
  std::string_view name;
  bool optional = false;  // coremltools' readers do without; a writer of ours never does
  bool many = false;      // a list of bindings
  bool constant = false;  // must be known before the program runs
};

struct OperationSpec {
  std::string_view type;
  Opset first = Opset::core_ml5;  // the first opset that has it
  std::span<const ParameterSpec> parameters;
  // Types of the results, or an error that says which operand contradicts what.
  Result<std::vector<ValueType>> (*infer)(const Operands& operands) = nullptr;
};

// Null for what the table does not know, or what the opset does not have yet. Where an operation's
// parameters changed, the version in force in `opset`.
const OperationSpec* find_operation(std::string_view type, Opset opset);

// What validate() does about an operation that the table does not know: trust its declared types
// (for looking at other people's packages), or refuse (to run, to write).
enum class Unknown : uint8_t { trust, refuse };

// Judges a program: every function has a block of a known opset; names are identifiers, defined
// once and before their use; each operation has its required parameters and no others; declared
// result types are those that the rules give; block outputs exist; the description's features agree
// with the functions' inputs and outputs. The error names function and operation.
// `every_parameter`: optional ones too must be there (what a writer of ours must satisfy).
Result<void> validate(const Model& model, Unknown unknown, bool every_parameter = false);

// [A-Za-z_][A-Za-z0-9_@]*, none of MIL's reserved words; `sanitised` makes one of anything.
bool is_identifier(std::string_view name);
std::string sanitised(std::string_view name);

}  // namespace impetus::mil
