// A function of an ML Program with its edges: who makes what each operation reads, and who reads
// what it makes. What the rules and the cost of the Neural Engine's check stand on.
//
// Borrows from the Function, which must outlive it. Immutable after graph_of(): any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::coreml {

inline constexpr int kNoProducer = -1;  // an input of the function or block, or a constant in place

// One binding of a parameter.
struct Reference {
  std::string_view parameter;
  std::string_view name;  // empty: a constant in place
  const mil::ValueType* type = nullptr;
  const mil::Value* constant = nullptr;  // where its bytes are known before the program runs
  int producer = kNoProducer;            // index in Graph::nodes

  const mil::TensorType& tensor() const { return type->tensor; }
};

// Constants of ten elements or more (those that go to weight.bin) that an operation reads, through
// constexpr_*: as the package stores them, and unpacked as it computes with them.
inline constexpr int64_t kWeightElements = 10;
struct WeightBytes {
  int64_t stored = 0, unpacked = 0;
  bool palettised = false, integer = false, blocks = false;  // how any of them is packed
};

struct Node {
  const mil::Operation* operation = nullptr;
  std::vector<Reference> operands;
  std::vector<int> consumers;  // ascending, each once
  bool constant = false;       // const, constexpr_*, or computed from such alone
  bool output = false;         // the function gives one of its results
  WeightBytes weights;
  int depth = 0;  // in blocks of cond and while_loop: more than 0

  const Reference* find(std::string_view parameter) const;  // the first binding; null: none
  // Integers of a constant parameter; empty where it is not bound or not known.
  std::vector<int64_t> integers(std::string_view parameter) const;
  std::string_view type() const { return operation->type; }
  std::string_view name() const { return operation->name(); }
  // Its first result; a scalar where it has none.
  const mil::TensorType& result() const;
};

struct Graph {
  std::string name;
  const mil::Function* function = nullptr;
  std::vector<Node> nodes;  // in order of execution; those of nested blocks after their holder
};

// An error (corrupt) names what is used before it is defined, or twice defined, and where.
Result<Graph> graph_of(const std::string& name, const mil::Function& function);

// The nearest maker of `reference` that is no mere rearrangement (reshape, transpose, slice, split,
// cast, ...); null where that is an input or a constant, or far away.
const Node* origin(const Graph& graph, const Reference& reference);
bool rearranges(std::string_view type);

// Products and sums of sizes from outside: stay at the largest int64 instead of overflowing.
int64_t saturating_mul(int64_t a, int64_t b);
int64_t saturating_add(int64_t a, int64_t b);
int64_t elements_of(const mil::TensorType& type);  // 0 where a dimension is open
int64_t bytes_of(const mil::TensorType& type);     // packed; 0 where a dimension is open

// What the engine takes to store an activation: rows of the last axis padded to 64 bytes,
//   prod(shape[:-1]) * ceil(last * size / 64) * 64.
int64_t padded_bytes(const mil::TensorType& type);
double blow_up(const mil::TensorType& type);  // padded to packed bytes; 1 where that is unknown

}  // namespace impetus::coreml
