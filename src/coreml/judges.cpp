// Judges of where an operation can run: types, ranks, extents, kinds. Numbers and functions as
// wholes: judges_numeric.cpp, judges_whole.cpp.
#include "coreml/judges.h"

#include <algorithm>

namespace impetus::coreml {
namespace {

using mil::DataType;
using mil::TensorType;

bool is_tensor(const mil::ValueType& type) {
  return type.kind == mil::ValueType::Kind::tensor || type.kind == mil::ValueType::Kind::state;
}

bool computes_on_engine(DataType type) {
  return type == DataType::f16 || type == DataType::i8 || type == DataType::u8 ||
         type == DataType::i16 || type == DataType::u16;
}

bool runs_at_all(std::string_view type) {
  const auto kind = verdict_on(type).kind;
  return kind != TypeVerdict::Kind::elsewhere && kind != TypeVerdict::Kind::unknown;
}

Unit unit_for(DataType type) {
  return mil::is_float(type) ? Unit::gpu : Unit::cpu;
}

template <typename Judge>
void each_result(const Node& node, Judge judge) {
  for (const mil::NamedType& result : node.operation->outputs) {
    if (is_tensor(result.type)) judge(result.name, result.type.tensor);
  }
}

// Whether each number has no other prime factors than 2 and 3.
bool of_twos_and_threes(int64_t number) {
  while (number > 1 && number % 2 == 0) number /= 2;
  while (number > 1 && number % 3 == 0) number /= 3;
  return number == 1;
}

}  // namespace

void judge_type(const Context&, const Graph& graph, const Node& node, Hits& hits) {
  if (!runs_at_all(node.type())) return;  // D8 and D9 say where it goes
  const bool compares = verdict_on(node.type()).kind == TypeVerdict::Kind::comparison;
  if (node.type() == "cast") {
    // fp32 and bool to fp16 and back are the engine's own formats at its edges; D8 has integers.
    const Reference* x = node.find("x");
    const bool half = node.result().dtype == DataType::f16 ||
                      (x != nullptr && x->tensor().dtype == DataType::f16);
    const bool integers =
        x != nullptr && !mil::is_float(x->tensor().dtype) && x->tensor().dtype != DataType::boolean;
    if (half && !integers) return;
  }
  const auto leaves = [&](std::string_view name, const TensorType& type) {
    hits.push_back({.level = Level::error,
                    .tensor = std::string(name),
                    .message = fmt::format("computes with {}", type.to_string()),
                    .mend = mil::is_float(type.dtype)
                                ? "convert the model in fp16"
                                : "keep integers and bools on the host, or make them fp16",
                    .unit = unit_for(type.dtype)});
  };
  for (const Reference& operand : node.operands) {
    const bool folded =
        operand.name.empty() || operand.constant != nullptr ||
        (operand.producer >= 0 && graph.nodes[static_cast<size_t>(operand.producer)].constant);
    const bool condition =
        operand.parameter == "cond" && operand.tensor().dtype == DataType::boolean;
    if (folded || condition || !is_tensor(*operand.type)) continue;
    if (!computes_on_engine(operand.tensor().dtype)) {
      return leaves(operand.name, operand.tensor());
    }
  }
  for (const mil::NamedType& result : node.operation->outputs) {
    const DataType type = result.type.tensor.dtype;
    if (!is_tensor(result.type) || computes_on_engine(type)) continue;
    if (!compares || type != DataType::boolean) return leaves(result.name, result.type.tensor);
  }
}

void judge_rank(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (!runs_at_all(node.type())) return;
  each_result(node, [&](std::string_view name, const TensorType& type) {
    const size_t rank = type.shape.size();
    if (rank <= 4) return;
    const bool leaves = rank > 5;
    hits.push_back({.level = leaves ? Level::error : Level::warning,
                    .tensor = std::string(name),
                    .message = fmt::format("{} has rank {}", type.to_string(), rank),
                    .mend = "merge dimensions down to 4",
                    .unit = leaves ? Unit::gpu : Unit::neural_engine});
  });
}

void judge_extent(const Context& context, const Graph&, const Node& node, Hits& hits) {
  if (!runs_at_all(node.type())) return;
  const int64_t most = context.chip.extent_max;
  const auto too_large = [&](std::string_view tensor, std::string_view what, int64_t size,
                             int64_t limit) {
    hits.push_back({.level = Level::error,
                    .tensor = std::string(tensor),
                    .message = fmt::format("{} {} is more than {}", what, size, limit),
                    .mend = "cut the tensor into parts along it",
                    .unit = Unit::gpu});
  };
  each_result(node, [&](std::string_view name, const TensorType& type) {
    const std::vector<int64_t>& shape = type.shape;
    const size_t rank = shape.size();
    if (rank >= 1 && shape[rank - 1] > most) too_large(name, "width", shape[rank - 1], most);
    if (rank >= 2 && shape[rank - 2] > most) too_large(name, "height", shape[rank - 2], most);
    if (rank >= 3 && shape[rank - 3] > kChannelsMax) {
      too_large(name, "channels", shape[rank - 3], kChannelsMax);
    }
  });
  if (const int64_t inner = inner_dimension(node); inner > most) {
    too_large(node.name(), "contraction", inner, most);
  }
}

void judge_padding(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (!runs_at_all(node.type())) return;
  constexpr double kWaste = 2;
  each_result(node, [&](std::string_view name, const TensorType& type) {
    if (!computes_on_engine(type.dtype)) return;  // D1: it is stored elsewhere
    const double factor = blow_up(type);
    if (factor <= kWaste) return;
    const auto largest = std::ranges::max_element(type.shape);
    std::string mend = "compute it on the host, or together with others in one tensor";
    if (largest != type.shape.end()) {
      TensorType turned = type;
      std::swap(turned.shape[static_cast<size_t>(largest - type.shape.begin())],
                turned.shape.back());
      if (padded_bytes(turned) < padded_bytes(type)) {
        mend = fmt::format("put the longest axis last: {} takes {} bytes", turned.to_string(),
                           padded_bytes(turned));
      }
    }
    hits.push_back(
        {.level = Level::warning,
         .tensor = std::string(name),
         .message = fmt::format("{} takes {} bytes instead of {}: {:.3g} times", type.to_string(),
                                padded_bytes(type), bytes_of(type), factor),
         .mend = std::move(mend)});
  });
}

void judge_convolution(const Context& context, const Graph& graph, const Node& node, Hits& hits) {
  if (node.type() != "conv" && node.type() != "conv_transpose") return;
  const auto leaves = [&](std::string message, std::string mend) {
    hits.push_back({.level = Level::error,
                    .tensor = std::string(node.name()),
                    .message = std::move(message),
                    .mend = std::move(mend),
                    .unit = Unit::gpu});
  };
  const bool palettised = node.weights.palettised;
  for (const int64_t stride : node.integers("strides")) {
    if (!of_twos_and_threes(stride)) {
      leaves(fmt::format("stride {} has a factor other than 2 and 3", stride),
             "use strides of 1, 2, 3, 4, 6, 8, 9, 12, ...");
    } else if (palettised && stride > 2) {
      leaves(fmt::format("stride {} with palettised weights is more than 2", stride),
             "keep this convolution's weights in fp16 or int8");
    }
  }
  const Reference* weight = node.find("weight");
  if (weight == nullptr || weight->tensor().shape.size() < 3) return;
  const int64_t width = weight->tensor().shape.back();
  if (width > context.chip.kernel_width_max) {
    leaves(fmt::format("a kernel {} wide is wider than {}", width, context.chip.kernel_width_max),
           "split the kernel, or use space_to_depth before it");
  }
}

void judge_pool(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (!node.type().ends_with("_pool")) return;
  constexpr int64_t kKernelMax = 13, kStrideMax = 2;
  const auto doubt = [&](std::string_view what, int64_t size, int64_t limit) {
    hits.push_back({.level = Level::warning,
                    .tensor = std::string(node.name()),
                    .message = fmt::format("{} {} is more than {}", what, size, limit),
                    .mend = "pool in several smaller steps, or use reduce_mean, reduce_max"});
  };
  for (const int64_t size : node.integers("kernel_sizes")) {
    if (size > kKernelMax) doubt("kernel", size, kKernelMax);
  }
  for (const int64_t stride : node.integers("strides")) {
    if (stride > kStrideMax) doubt("stride", stride, kStrideMax);
  }
}

void judge_vocabulary(const Context&, const Graph&, const Node& node, Hits& hits) {
  const int64_t outputs = weight_shape(node).outputs;
  if (outputs <= kChannelsMax) return;
  hits.push_back({.level = Level::error,
                  .tensor = std::string(node.name()),
                  .message = fmt::format("{} outputs in one {} are more than {}", outputs,
                                         node.type(), kChannelsMax),
                  .mend = "split it into 8 to 16 convolutions over parts of the outputs",
                  .unit = Unit::gpu});
}

void judge_operation(const Context&, const Graph&, const Node& node, Hits& hits) {
  const TypeVerdict verdict = verdict_on(node.type());
  if (verdict.kind == TypeVerdict::Kind::elsewhere) {
    hits.push_back({.level = Level::error,
                    .tensor = std::string(node.name()),
                    .message = fmt::format("{} does not run on the engine", node.type()),
                    .mend = std::string(verdict.mend),
                    .unit = Unit::cpu});
    return;
  }
  const DataType type = node.result().dtype;
  if (node.type() == "cast" && !mil::is_float(type) && type != DataType::boolean) {
    hits.push_back(
        {.level = Level::error,
         .tensor = std::string(node.name()),
         .message = fmt::format("a cast to {} does not run on the engine", mil::to_string(type)),
         .mend = "keep integers on the host",
         .unit = Unit::cpu});
  }
}

void judge_condition(const Context& context, const Graph& graph, const Node& node, Hits& hits) {
  const TypeVerdict verdict = verdict_on(node.type());
  const auto leaves = [&](Level level, std::string message, std::string mend, Unit unit) {
    hits.push_back({level, std::string(node.name()), std::move(message), std::move(mend), unit});
  };
  if (verdict.kind == TypeVerdict::Kind::unknown) {
    leaves(Level::warning, fmt::format("{} is unknown: assumed CPU", node.type()),
           "write it with operations of this list", Unit::cpu);
  } else if (verdict.kind == TypeVerdict::Kind::sine && !context.chip.sine) {
    leaves(Level::error, fmt::format("{} runs on the engine from M3 on", node.type()),
           "pass the values in: positions are known before the program runs", Unit::gpu);
  } else if (verdict.kind == TypeVerdict::Kind::comparison) {
    const bool selects = !node.output && !node.consumers.empty() &&
                         std::ranges::all_of(node.consumers, [&](int consumer) {
                           return graph.nodes[static_cast<size_t>(consumer)].type() == "select";
                         });
    if (!selects) {
      leaves(Level::error,
             fmt::format("the bool of {} feeds something other than a select", node.type()),
             "feed selects with it, or compute masks in fp16", Unit::cpu);
    }
  }
}

void judge_slice(const Context& context, const Graph&, const Node& node, Hits& hits) {
  if (context.chip.late_slices) return;
  if (node.type() != "slice_by_index" && node.type() != "slice_by_size") return;
  const Reference* begins = node.find("begin");
  if (begins == nullptr) return;
  const bool known = begins->constant != nullptr;
  const std::vector<int64_t> begin = node.integers("begin");
  if (known && (begin.empty() || begin.back() == 0)) return;
  if (const Reference* mask = node.find("begin_mask"); mask != nullptr && mask->constant) {
    const auto bits = mask->constant->as_ints();  // true: from the start, whatever `begin` says
    if (bits.ok() && !bits->empty() && bits->back() != 0) return;
  }
  hits.push_back({.level = Level::warning,
                  .tensor = std::string(node.name()),
                  .message = known ? fmt::format("begins at {} of the last axis", begin.back())
                                   : std::string("begins somewhere in the last axis"),
                  .mend = "slice another axis, or keep values within 4094"});
}

void judge_payload(const Context&, const Graph& graph, const Node& node, Hits& hits) {
  const int64_t bytes = payload_bytes(graph, node);
  if (!payload_is_slow(bytes)) return;
  hits.push_back(
      {.level = Level::performance,
       .tensor = std::string(node.name()),
       .message = fmt::format("each core reads {} bytes of weights, near whole MiB", bytes),
       .mend = "split the inputs into two convolutions and add their results"});
}

void judge_inner(const Context&, const Graph&, const Node& node, Hits& hits) {
  constexpr int64_t kMultiple = 32;
  const int64_t inner = inner_dimension(node);
  if (!is_matrix_product(node.type()) || inner % kMultiple == 0) return;
  hits.push_back(
      {.level = Level::warning,
       .tensor = std::string(node.name()),
       .message = fmt::format("inner dimension {} is no multiple of {}", inner, kMultiple),
       .mend = fmt::format("pad it with zeros to {}",
                           saturating_mul(inner / kMultiple + 1, kMultiple))});
}

void judge_open_shape(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (!runs_at_all(node.type())) return;
  each_result(node, [&](std::string_view name, const TensorType& type) {
    if (type.fixed()) return;
    hits.push_back({.level = Level::error,
                    .tensor = std::string(name),
                    .message = fmt::format("{} has open dimensions", type.to_string()),
                    .mend = "convert with fixed shapes, one function each",
                    .unit = unit_for(type.dtype)});
  });
}

void judge_attention(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (node.type() != "scaled_dot_product_attention") return;
  hits.push_back({.level = Level::warning,
                  .tensor = std::string(node.name()),
                  .message = "scaled_dot_product_attention is fused or not as the system likes",
                  .mend = "write products and softmax out, or target macOS 14 or older"});
}

}  // namespace impetus::coreml
