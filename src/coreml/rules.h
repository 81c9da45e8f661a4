// The Neural Engine's constraints as data: each with its level, source and judge. D1 to D18 are the
// brief's section D; B1, C1 to C3 and E1 come from its sections B, C and E. docs/neural-engine.md
// has the same table, held to this one by a test.
//
// Pure, but for the Constants that a Context carries: one thread a Context.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "coreml/check.h"
#include "coreml/chips.h"
#include "coreml/graph.h"

namespace impetus::coreml {

// A rule that fired at one place.
struct Hit {
  Level level = Level::error;
  std::string tensor = {}, message = {}, mend = {};
  // Where the operation goes instead; neural_engine: it stays.
  Unit unit = Unit::neural_engine;
};
using Hits = std::vector<Hit>;

// What a constant's numbers are like; each is read once.
struct ConstantFacts {
  bool nan = false;
  float least = 0;  // -inf where there is one; NaN left out
};
class Constants {
 public:
  const ConstantFacts& facts(const mil::Value& value);

 private:
  std::map<std::tuple<const void*, size_t, mil::DataType>, ConstantFacts> known_;
};

using Ranges = std::map<std::string, float, std::less<>>;  // tensor to its largest |value|

struct Context {
  const Chip& chip;
  const mil::Model& model;
  const Ranges& ranges;
  Constants& constants;
};

// What became of a function, for rules that judge it as a whole.
struct Placement {
  const Graph& graph;
  std::vector<Unit> units;  // by node
  int64_t operations = 0, segments = 0, engine_segments = 0;
  const Node* first_off = nullptr;  // the first operation off the engine; null: none
};

struct Rule {
  std::string_view id;         // "D4"
  Level level = Level::error;  // of its usual finding
  std::string_view statement;  // one line
  std::string_view source;
  bool by_chip = false;
  bool constants = false;  // `operation` also judges what is folded before the program runs

  // Whichever are not null; each appends what it finds.
  void (*operation)(const Context&, const Graph&, const Node&, Hits&) = nullptr;
  void (*function)(const Context&, const Placement&, Hits&) = nullptr;
  void (*package)(const Context&, int64_t package_bytes, Hits&) = nullptr;
};

std::span<const Rule> rules();
const Rule* find_rule(std::string_view id);

// What is known about an operation's type.
struct TypeVerdict {
  enum class Kind : uint8_t { engine, comparison, sine, elsewhere, unknown };
  Kind kind = Kind::unknown;
  std::string_view mend;  // of those that run elsewhere
};
TypeVerdict verdict_on(std::string_view type);

// The table as docs/neural-engine.md has it.
std::string rules_markdown();

}  // namespace impetus::coreml
