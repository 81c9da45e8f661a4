#include "coreml/graph.h"

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>

namespace impetus::coreml {
namespace {

constexpr int kDepthMax = 32;
constexpr std::array<std::string_view, 15> kRearranging = {
    "reshape", "transpose", "expand_dims",    "squeeze",       "concat",
    "split",   "stack",     "slice_by_index", "slice_by_size", "pad",
    "tile",    "flatten2d", "identity",       "cast",          "reverse"};

const mil::Value* value_of(const mil::Operation& operation) {
  if (operation.type != "const") return nullptr;
  const auto found = operation.attributes.find("val");
  return found == operation.attributes.end() ? nullptr : &found->second;
}

// Names in scope while a function is walked.
class Resolver {
 public:
  explicit Resolver(Graph& graph) : graph_(graph) {}

  Result<void> define(std::string_view name, const mil::ValueType& type, int producer,
                      const mil::Value* constant) {
    if (!scope_.emplace(name, Known{&type, constant, producer}).second) {
      return error(ErrorCode::corrupt, "{} is defined twice", name);
    }
    defined_.push_back(name);
    return {};
  }

  Result<void> block(const mil::Block& block, int depth) {
    if (depth > kDepthMax) {
      return error(ErrorCode::corrupt, "blocks are nested deeper than {}", kDepthMax);
    }
    const size_t outer = defined_.size();
    for (const mil::NamedType& input : block.inputs) {
      IMPETUS_CHECK(define(input.name, input.type, kNoProducer, nullptr));
    }
    for (const mil::Operation& operation : block.operations) {
      IMPETUS_CHECK(add(operation, depth));
    }
    for (const std::string& name : block.outputs) {
      const auto found = scope_.find(name);
      if (found == scope_.end()) {
        return error(ErrorCode::corrupt, "the output {} is made by no operation", name);
      }
      if (depth == 0 && found->second.producer >= 0) {
        graph_.nodes[static_cast<size_t>(found->second.producer)].output = true;
      }
    }
    if (depth > 0) {
      for (size_t i = outer; i < defined_.size(); ++i) scope_.erase(defined_[i]);
      defined_.resize(outer);
    }
    return {};
  }

 private:
  struct Known {
    const mil::ValueType* type;
    const mil::Value* constant;
    int producer;
  };

  Result<void> add(const mil::Operation& operation, int depth) {
    const int index = static_cast<int>(graph_.nodes.size());
    Node node;
    node.operation = &operation;
    node.depth = depth;
    for (const auto& [parameter, argument] : operation.inputs) {
      for (const mil::Binding& binding : argument) {
        if (const auto* value = std::get_if<mil::Value>(&binding)) {
          node.operands.push_back({parameter, {}, &value->type, value, kNoProducer});
          continue;
        }
        const std::string& name = std::get<std::string>(binding);
        const auto found = scope_.find(name);
        if (found == scope_.end()) {
          return error(ErrorCode::corrupt, "operation {} ({}) reads {} before it is defined",
                       operation.name(), operation.type, name);
        }
        const Known& known = found->second;
        node.operands.push_back({parameter, name, known.type, known.constant, known.producer});
        if (known.producer >= 0) {
          auto& consumers = graph_.nodes[static_cast<size_t>(known.producer)].consumers;
          if (consumers.empty() || consumers.back() != index) consumers.push_back(index);
        }
      }
    }
    // CoreML6's constexpr_* keep their parameters as attributes.
    if (operation.type.starts_with("constexpr_")) {
      for (const auto& [name, value] : operation.attributes) {
        if (name != "name") node.operands.push_back({name, {}, &value.type, &value, kNoProducer});
      }
    }
    node.constant = operation.type == "const" || operation.type.starts_with("constexpr_") ||
                    (operation.blocks.empty() && !operation.type.starts_with("random_") &&
                     operation.type != "read_state" && node_is_folded(node));
    node.weights = weights_of(node);
    graph_.nodes.push_back(std::move(node));
    for (const mil::Block& nested : operation.blocks) IMPETUS_CHECK(block(nested, depth + 1));
    const mil::Value* value = value_of(operation);
    for (const mil::NamedType& result : operation.outputs) {
      IMPETUS_CHECK(define(result.name, result.type, index, value));
    }
    return {};
  }

  WeightBytes weights_of(const Node& node) const {
    WeightBytes found;
    for (const Reference& operand : node.operands) {
      if (operand.constant != nullptr) {
        if (elements_of(operand.tensor()) < kWeightElements) continue;
        found.stored =
            saturating_add(found.stored, static_cast<int64_t>(operand.constant->bytes.view.size()));
        found.unpacked = saturating_add(found.unpacked, bytes_of(operand.tensor()));
      } else if (operand.producer >= 0) {
        const Node& made = graph_.nodes[static_cast<size_t>(operand.producer)];
        if (!made.constant) continue;
        found.stored = saturating_add(found.stored, made.weights.stored);
        found.unpacked = saturating_add(found.unpacked, bytes_of(operand.tensor()));
        const std::string_view type = made.type();
        found.palettised |= made.weights.palettised || type == "constexpr_lut_to_dense";
        found.integer |= made.weights.integer || type == "constexpr_affine_dequantize";
        found.blocks |= made.weights.blocks;
        if (type == "constexpr_blockwise_shift_scale") {
          const Reference* scale = made.find("scale");
          const int64_t outputs = made.result().shape.empty() ? 1 : made.result().shape.front();
          const bool blocks = scale != nullptr && elements_of(scale->tensor()) > outputs;
          (blocks ? found.blocks : found.integer) = true;
        }
      }
    }
    return found;
  }

  bool node_is_folded(const Node& node) const {
    return !node.operands.empty() && std::ranges::all_of(node.operands, [&](const Reference& one) {
      return one.constant != nullptr ||
             (one.producer >= 0 && graph_.nodes[static_cast<size_t>(one.producer)].constant);
    });
  }

  Graph& graph_;
  std::unordered_map<std::string_view, Known> scope_;
  std::vector<std::string_view> defined_;
};

}  // namespace

const Reference* Node::find(std::string_view parameter) const {
  const auto found = std::ranges::find(operands, parameter, &Reference::parameter);
  return found == operands.end() ? nullptr : &*found;
}

std::vector<int64_t> Node::integers(std::string_view parameter) const {
  const Reference* reference = find(parameter);
  if (reference == nullptr || reference->constant == nullptr) return {};
  auto values = reference->constant->as_ints();
  return values.ok() ? std::move(*values) : std::vector<int64_t>{};
}

const mil::TensorType& Node::result() const {
  static const mil::TensorType scalar{};
  return operation->outputs.empty() ? scalar : operation->outputs.front().type.tensor;
}

Result<Graph> graph_of(const std::string& name, const mil::Function& function) {
  Graph graph{name, &function, {}};
  const mil::Block* block = function.block();
  if (block == nullptr) {
    return error(ErrorCode::corrupt, "function {} has no block for its operation set '{}'", name,
                 function.opset);
  }
  Resolver resolver(graph);
  for (const mil::NamedType& input : function.inputs) {
    if (auto defined = resolver.define(input.name, input.type, kNoProducer, nullptr);
        !defined.ok()) {
      return Error(defined.error()).within("function " + name);
    }
  }
  if (auto walked = resolver.block(*block, 0); !walked.ok()) {
    return Error(walked.error()).within("function " + name);
  }
  return graph;
}

bool rearranges(std::string_view type) {
  return std::ranges::find(kRearranging, type) != kRearranging.end();
}

const Node* origin(const Graph& graph, const Reference& reference) {
  constexpr int kStepsMax = 64;  // a program from outside may chain any number
  int producer = reference.producer;
  for (int step = 0; producer >= 0 && step < kStepsMax; ++step) {
    const Node& node = graph.nodes[static_cast<size_t>(producer)];
    if (!rearranges(node.type())) return &node;
    producer = kNoProducer;
    for (const Reference& operand : node.operands) {
      if (operand.parameter == "x" || operand.parameter == "values") {
        producer = operand.producer;
        break;
      }
    }
  }
  return nullptr;
}

int64_t saturating_mul(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

int64_t saturating_add(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

int64_t elements_of(const mil::TensorType& type) {
  if (!type.fixed()) return 0;
  int64_t product = 1;
  for (const int64_t dim : type.shape) product = saturating_mul(product, dim);
  return product;
}

int64_t bytes_of(const mil::TensorType& type) {
  const int64_t bits = saturating_mul(elements_of(type), mil::bits_of(type.dtype));
  return bits / 8 + (bits % 8 != 0 ? 1 : 0);
}

int64_t padded_bytes(const mil::TensorType& type) {
  constexpr int64_t kRowBytes = 64;
  if (!type.fixed()) return 0;
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < type.shape.size(); ++i) rows = saturating_mul(rows, type.shape[i]);
  const int64_t last = type.shape.empty() ? 1 : type.shape.back();
  const int64_t bytes = bytes_of({type.dtype, {last}});
  const int64_t blocks = bytes / kRowBytes + (bytes % kRowBytes != 0 ? 1 : 0);
  return saturating_mul(rows, saturating_mul(blocks, kRowBytes));
}

double blow_up(const mil::TensorType& type) {
  const int64_t packed = bytes_of(type);
  if (packed <= 0 || packed == std::numeric_limits<int64_t>::max()) return 1;
  return static_cast<double>(padded_bytes(type)) / static_cast<double>(packed);
}

}  // namespace impetus::coreml
