// MIL's operations as data: which parameters each has in which opset, and the rule that gives its
// results' types. Builder, validation, interpreter and the Neural Engine's check read this one
// table.
//
// Parameters are all written out, always: the Core ML runtime refuses omissions that coremltools'
// Python builders silently fill in ("Required param 'pad' is missing"), so the table knows no
// defaults for writers. Readers accept what coremltools leaves out: `optional` parameters.
// Immutable: any thread.
// Source of names, parameters and type rules: coremltools/converters/mil/mil/ops/defs.
#pragma once

#include <cstdint>
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
  const Value* constant = nullptr;  // a const operation's value, or an immediate binding
  // Known before the program runs, though perhaps not yet computed: constants, constexpr_* results
  // and what is made of nothing else.
  bool fixed = false;
};

// Of one operation; CoreML6's constexpr_* parameters (attributes) stand here too.
class Operands {
 public:
  // Null where the parameter is not bound, or is bound to several.
  const Operand* find(std::string_view parameter) const;
  std::span<const Operand> all(std::string_view parameter) const;
  void add(std::string_view parameter, Operand operand);

  using Bound = std::map<std::string, std::vector<Operand>, std::less<>>;
  const Bound& bound() const { return bound_; }

 private:
  Bound bound_;
};

using TypeSet = uint32_t;  // bit 1 << DataType each

struct ParameterSpec {
  std::string_view name;
  bool optional = false;  // coremltools' readers do without; a writer of ours never does
  bool many = false;      // a list of bindings
  bool constant = false;  // must be known before the program runs
  // An optional one that has no default (bias, gamma, attn_mask): where it is absent it is none,
  // also in what a writer of ours writes.
  bool omittable = false;
  TypeSet types = 0;  // element types that it may have; 0: any, and what is no tensor
  char same = 0;      // parameters with one letter have one element type
};

struct OperationSpec {
  std::string_view type;
  Opset first = Opset::core_ml5;  // the first opset that has it
  std::span<const ParameterSpec> parameters;
  // Types of the results, or an error that says which operand contradicts what. Null: the table
  // knows the name and nothing else (loops, recurrent and random operations, scatters, ...).
  // Safe on any operands; infer_types() below judges presence and element types as well.
  Result<std::vector<ValueType>> (*infer)(const Operands& operands) = nullptr;
  bool attributes = false;  // its parameters stand in Operation::attributes (CoreML6's constexpr_*)
};

// All rows: of one type several, where its parameters changed.
std::span<const OperationSpec> operation_table();
// Null for what the table does not know, or what the opset does not have yet. Where an operation's
// parameters changed, the version in force in `opset`.
const OperationSpec* find_operation(std::string_view type, Opset opset);

// The whole judgement of one operation: required parameters are there and no others, constants are
// constants, element types are allowed and agree; then the rule. `every_parameter`: optional ones
// too, unless omittable. Unknown dimensions propagate: where the rule cannot know it says kUnknown.
// unsupported where the spec has no rule; else corrupt. The caller names operation and place.
Result<std::vector<ValueType>> infer_types(const OperationSpec& spec, const Operands& operands,
                                           bool every_parameter = false);

// Whether a declared type agrees with an inferred one: unknown dimensions agree with all lengths.
bool compatible(const ValueType& declared, const ValueType& inferred);

// What validate() does about an operation that the table does not know: trust its declared types
// (for looking at other people's packages), or refuse (to run, to write).
enum class Unknown : uint8_t { trust, refuse };

// Judges a program: every function has a block of a known opset; names are identifiers, defined
// once and before their use; each operation has its required parameters and no others; declared
// result types are those that the rules give; block outputs exist; the description's features agree
// with the functions' inputs and outputs. The error names function and operation. Linear in the
// program's size, constants' bytes included.
// `every_parameter`: optional ones too must be there (what a writer of ours must satisfy).
Result<void> validate(const Model& model, Unknown unknown, bool every_parameter = false);
// The same of one function alone, for who runs no other; not_found names those that there are.
Result<void> validate_function(const Model& model, const std::string& name, Unknown unknown);

// [A-Za-z_][A-Za-z0-9_@]*, none of MIL's reserved words; `sanitised` makes one of anything.
bool is_identifier(std::string_view name);
std::string sanitised(std::string_view name);

}  // namespace impetus::mil
