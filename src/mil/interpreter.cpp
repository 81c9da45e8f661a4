#include "mil/interpreter.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include <fmt/ranges.h>

#include "mil/interpret.h"
#include "mil/operations.h"

namespace impetus::mil {
namespace {

constexpr float kF16Max = 65504.0f;

std::string place_of(const Operation& operation) {
  return fmt::format("operation {} ({})", operation.name(), operation.type);
}
std::string place_of(const Step& step) {
  return fmt::format("operation {} ({})", step.name, step.type);
}

bool agrees(const TensorType& declared, const Array& array) {
  if (declared.dtype != array.dtype || declared.shape.size() != array.shape.size()) return false;
  for (size_t i = 0; i < array.shape.size(); ++i) {
    if (declared.shape[i] != kUnknown && declared.shape[i] != array.shape[i]) return false;
  }
  return true;
}

// Integers narrower than the int32 that they are run as wrap around, as they do in memory.
void wrap(Array& array) {
  const auto narrow = [&]<typename T>(T) {
    for (int32_t& value : array.buffer->ints) value = static_cast<T>(value);
  };
  switch (array.dtype) {
    case DataType::i8:
      return narrow(int8_t{});
    case DataType::u8:
      return narrow(uint8_t{});
    case DataType::i16:
      return narrow(int16_t{});
    case DataType::u16:
      return narrow(uint16_t{});
    default:
      return;
  }
}

// Both kinds of events of one operation, or of an input, over its tensors.
class Events {
 public:
  Events(std::string_view operation, std::string_view type)
      : overflow_{NumericEvent::Kind::overflow, std::string(operation), std::string(type), {}},
        nan_{NumericEvent::Kind::nan, std::string(operation), std::string(type), {}} {}

  void note(const std::string& tensor, const Scan& found) {
    note(overflow_, tensor, found.overflows, found.first_overflow, found.overflow_value);
    note(nan_, tensor, found.nans, found.first_nan, found.nan_value);
  }
  // Of sums that the result does not show.
  void overflowed_inside(const std::string& tensor) {
    note(overflow_, tensor, overflow_.count == 0 ? 1 : 0, 0,
         std::numeric_limits<float>::infinity());
  }
  void append_to(std::vector<NumericEvent>& events) && {
    for (NumericEvent* event : {&overflow_, &nan_}) {
      if (event->count > 0) events.push_back(std::move(*event));
    }
  }

 private:
  static void note(NumericEvent& event, const std::string& tensor, int64_t count, int64_t first,
                   float value) {
    if (count == 0) return;
    if (event.count == 0) {
      event.tensor = tensor;
      event.index = first;
      event.value = value;
    }
    event.count += count;
  }

  NumericEvent overflow_, nan_;
};

float limit_of(DataType type) {
  return type == DataType::f16 ? kF16Max : std::numeric_limits<float>::max();
}

// Runs one step and looks at what it gave: declared type, numeric events, range, rounding.
Result<void> perform(Machine& machine, const Step& step, std::vector<NumericEvent>& events,
                     std::vector<TensorRange>* ranges) {
  Call call(machine, step);
  if (auto done = step.kernel->run(call); !done.ok()) {
    return std::move(done).error().within(place_of(step));
  }
  Events seen(step.name, step.type);
  for (size_t i = 0; i < step.results.size(); ++i) {
    const NamedType& declared = step.results[i];
    Array& array = machine.slots[static_cast<size_t>(step.result_slots[i])];
    if (array.buffer == nullptr) {
      return error(ErrorCode::corrupt, "{}: gives no result {}", place_of(step), declared.name);
    }
    if (!agrees(declared.type.tensor, array)) {
      return error(ErrorCode::corrupt, "{}: {} is {} where the program declares {}", place_of(step),
                   declared.name, array.to_string(), declared.type.to_string());
    }
    if (!array.floating()) {
      if (!step.kernel->moves) wrap(array);
      continue;
    }
    const bool round =
        array.dtype == DataType::f16 && machine.options.round_f16 && !step.kernel->moves;
    const Scan found = scan(array.buffer->floats, limit_of(array.dtype), round);
    if (ranges != nullptr) ranges->push_back({declared.name, step.name, found.max_abs, step.type});
    if (!step.kernel->moves) seen.note(declared.name, found);
  }
  if (call.has_overflowed() && !step.results.empty()) {
    seen.overflowed_inside(step.results.front().name);
  }
  std::move(seen).append_to(events);
  return {};
}

}  // namespace

struct Interpreter::Loaded {
  struct Input {
    NamedType type;
    int slot = 0;
    // As the description declares flexible shapes.
    std::vector<Dims> enumerated;
    std::vector<std::pair<int64_t, int64_t>> ranges;
  };
  struct State {
    TensorType type;
    int slot = 0;
  };

  explicit Loaded(const InterpreterOptions& wanted)
      : options(wanted), budget(wanted.memory_max, 0) {}

  InterpreterOptions options;
  Budget budget;  // outlives the slots, whose buffers and leases give back to it
  Opset opset = Opset::core_ml5;
  std::vector<Array> slots;  // constants decoded; the others empty
  std::vector<Step> steps;
  std::vector<Input> inputs;
  std::vector<State> states;
  std::vector<NamedType> input_types, outputs;
  std::vector<int> output_slots;
  std::vector<NumericEvent> events;  // of constants that were made at load
};

namespace {

// Constants of fewer bytes are cheaper decoded than looked up.
constexpr int64_t kSharedBytesMin = 256;

// What two constants with equal values have in common. Long ones are told by where they stand: a
// blob that functions share is mapped once.
std::string key_of(const Value& value) {
  std::string key = value.type.to_string();
  const auto bytes = value.bytes.view;
  if (std::cmp_greater_equal(bytes.size(), kSharedBytesMin)) {
    return key + fmt::format("@{}", static_cast<const void*>(bytes.data()));
  }
  key.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const std::string& one : value.strings) key += fmt::format("\"{}\"{}", one, one.size());
  return key;
}

// Resolves a function's names to slots and folds what is known.
template <typename Loaded>
class Loader {
 public:
  // `store` null: nothing is shared.
  Loader(Loaded& to, Crew& crew, ConstantStore* store) : to_(to), crew_(crew), store_(store) {}

  Result<void> load(const Function& function, const FunctionDescription* description,
                    const Block& block) {
    for (const NamedType& input : function.inputs) {
      IMPETUS_CHECK(add_input(input, description));
    }
    count_uses(block);
    for (const Operation& operation : block.operations) {
      if (auto done = add(operation); !done.ok()) {
        return std::move(done).error().within(place_of(operation));
      }
    }
    for (const std::string& name : block.outputs) {
      IMPETUS_TRY(const int slot, slot_of(name));
      if (states_.contains(slot)) {
        return error(ErrorCode::unsupported, "output {} is a state", name);
      }
      if (auto done = known_[at(slot)] ? materialise(slot) : Result<void>(); !done.ok()) {
        return std::move(done).error().within(fmt::format("output {}", name));
      }
      to_.output_slots.push_back(slot);
      to_.outputs.push_back({name, types_[at(slot)]});
    }
    plan_lifetimes();
    return {};
  }

 private:
  static size_t at(int slot) { return static_cast<size_t>(slot); }

  int new_slot(ValueType type) {
    to_.slots.emplace_back();
    values_.push_back(nullptr);
    known_.push_back(false);
    types_.push_back(std::move(type));
    uses_.push_back(0);
    ids_.push_back(-1);
    return static_cast<int>(to_.slots.size()) - 1;
  }

  Result<int> define(const NamedType& named) {
    const int slot = new_slot(named.type);
    if (!names_.emplace(named.name, slot).second) {
      return error(ErrorCode::corrupt, "the name \"{}\" is defined twice", named.name);
    }
    if (const auto found = pending_uses_.find(named.name); found != pending_uses_.end()) {
      uses_[at(slot)] = found->second;
    }
    return slot;
  }

  Result<int> slot_of(const std::string& name) const {
    const auto found = names_.find(name);
    if (found == names_.end()) {
      return error(ErrorCode::corrupt, "\"{}\" is used before anything defines it", name);
    }
    return found->second;
  }

  Result<void> add_input(const NamedType& input, const FunctionDescription* description) {
    if (input.type.kind == ValueType::Kind::state) {
      if (!input.type.tensor.fixed()) {
        return error(ErrorCode::unsupported, "state {} has no fixed shape", input.name);
      }
      IMPETUS_TRY(const int slot, define(input));
      states_.insert(slot);
      to_.states.push_back({input.type.tensor, slot});
      return {};
    }
    if (input.type.kind != ValueType::Kind::tensor) {
      return error(ErrorCode::unsupported, "input {} is {}, not a tensor", input.name,
                   input.type.to_string());
    }
    IMPETUS_TRY(const int slot, define(input));
    typename Loaded::Input added{input, slot, {}, {}};
    if (description != nullptr) {
      const auto feature = std::ranges::find(description->inputs, input.name, &Feature::name);
      if (feature != description->inputs.end()) {
        added.enumerated = feature->enumerated;
        added.ranges = feature->ranges;
      }
    }
    to_.inputs.push_back(std::move(added));
    to_.input_types.push_back(input);
    return {};
  }

  // How many operations and outputs read each name, so that folded constants can go early.
  void count_uses(const Block& block) {
    for (const Operation& operation : block.operations) {
      for (const auto& [parameter, bindings] : operation.inputs) {
        for (const Binding& binding : bindings) {
          if (const auto* name = std::get_if<std::string>(&binding)) ++pending_uses_[*name];
        }
      }
    }
    for (const std::string& name : block.outputs) ++pending_uses_[name];
  }

  Result<void> add(const Operation& operation) {
    if (!operation.blocks.empty()) {
      return error(ErrorCode::unsupported, "operations with blocks are not run here");
    }
    if (operation.type == "const") {
      const auto value = operation.attributes.find("val");
      if (value == operation.attributes.end() || operation.outputs.size() != 1) {
        return error(ErrorCode::corrupt, "a const has one result and an attribute val");
      }
      IMPETUS_TRY(const int slot, define(operation.outputs.front()));
      set_constant(slot, value->second);
      return {};
    }
    Step step;
    step.kernel = find_kernel(operation.type);
    if (step.kernel == nullptr) {
      return error(ErrorCode::unsupported, "the interpreter does not run {}", operation.type);
    }
    step.type = operation.type;
    step.name = operation.name();
    bool fixed = true;
    for (const auto& [parameter, bindings] : operation.inputs) {
      IMPETUS_TRY(BoundParameter bound, bind(parameter, bindings, fixed));
      step.parameters.push_back(std::move(bound));
    }
    if (operation.type.starts_with("constexpr_")) {
      for (const auto& [name, value] : operation.attributes) {
        if (name == "name" || operation.inputs.contains(name)) continue;
        step.parameters.push_back({name, {constant(value)}});
      }
    }
    for (const NamedType& output : operation.outputs) {
      if (output.type.kind != ValueType::Kind::tensor) {
        return error(ErrorCode::unsupported, "result {} is {}, not a tensor", output.name,
                     output.type.to_string());
      }
      IMPETUS_TRY(const int slot, define(output));
      step.results.push_back(output);
      step.result_slots.push_back(slot);
    }
    if (fixed) return fold(step);
    IMPETUS_CHECK(materialise(step));
    to_.steps.push_back(std::move(step));
    return {};
  }

  // Computes now what is made of constants alone.
  Result<void> fold(const Step& step) {
    name_results(step);
    IMPETUS_TRY(const bool borrowed, borrow(step.result_slots));
    if (!borrowed) IMPETUS_CHECK(compute(step));
    for (const int slot : step.result_slots) {
      known_[at(slot)] = true;
      if (uses_[at(slot)] == 0) to_.slots[at(slot)] = {};
    }
    for (const BoundParameter& bound : step.parameters) {
      for (const int slot : bound.slots) {
        if (--uses_[at(slot)] <= 0) to_.slots[at(slot)] = {};
      }
    }
    return {};
  }

  Result<void> compute(const Step& step) {
    IMPETUS_CHECK(materialise(step));
    const size_t events = to_.events.size();
    Machine machine{to_.options, to_.budget, crew_, to_.slots, to_.opset, work_};
    if (auto done = perform(machine, step, to_.events, nullptr); !done.ok()) {
      Error failure = std::move(done).error();  // the caller names the place
      const std::string place = place_of(step) + ": ";
      if (failure.message.starts_with(place)) failure.message.erase(0, place.size());
      return failure;
    }
    work_ = machine.work;
    // What has events is made by each function anew, which then names its own operation.
    if (to_.events.size() > events) return {};
    for (const int slot : step.result_slots) offer(slot);
    return {};
  }

  Result<BoundParameter> bind(const std::string& parameter, const Argument& bindings, bool& fixed) {
    BoundParameter bound{parameter, {}};
    for (const Binding& binding : bindings) {
      if (const Value* value = std::get_if<Value>(&binding)) {
        bound.slots.push_back(constant(*value));
        continue;
      }
      IMPETUS_TRY(const int slot, slot_of(std::get<std::string>(binding)));
      fixed = fixed && known_[at(slot)];
      bound.slots.push_back(slot);
    }
    return bound;
  }

  int constant(const Value& value) {
    const int slot = new_slot(value.type);
    set_constant(slot, value);
    uses_[at(slot)] = 1;
    return slot;
  }

  void set_constant(int slot, const Value& value) {
    values_[at(slot)] = &value;
    known_[at(slot)] = true;
    if (store_ != nullptr) ids_[at(slot)] = store_->id_of(key_of(value), value.bytes.owner);
  }

  // Decodes the constants among a step's operands that have not been yet.
  Result<void> materialise(const Step& step) {
    for (const BoundParameter& bound : step.parameters) {
      for (const int slot : bound.slots) {
        if (known_[at(slot)]) IMPETUS_CHECK(materialise(slot));
      }
    }
    return {};
  }
  Result<void> materialise(int slot) {
    if (to_.slots[at(slot)].buffer != nullptr || values_[at(slot)] == nullptr) return {};
    IMPETUS_TRY(const bool borrowed, borrow(std::span(&slot, 1)));
    if (borrowed) return {};
    IMPETUS_TRY(to_.slots[at(slot)], decoded(*values_[at(slot)], to_.budget));
    offer(slot);
    return {};
  }

  // ---- constants shared with other functions ----

  // Results of equal operations on equal constants, under equal options, are equal.
  void name_results(const Step& step) {
    if (store_ == nullptr) return;
    std::string key =
        fmt::format("{} {} {} {}", step.type, to_string(to_.opset),
                    static_cast<int>(to_.options.accumulation), to_.options.round_f16);
    for (const NamedType& result : step.results) key += " " + result.type.to_string();
    for (const BoundParameter& bound : step.parameters) {
      key += " " + bound.name;
      for (const int slot : bound.slots) key += fmt::format(" {}", ids_[at(slot)]);
    }
    for (size_t i = 0; i < step.result_slots.size(); ++i) {
      ids_[at(step.result_slots[i])] = store_->id_of(fmt::format("{}: {}", key, i));
    }
  }

  // Takes all of these from the store; false where it lacks one.
  Result<bool> borrow(std::span<const int> slots) {
    if (store_ == nullptr) return false;
    std::vector<ConstantStore::Kept> kept;
    for (const int slot : slots) {
      kept.push_back(store_->find(ids_[at(slot)]));
      if (kept.back().buffer == nullptr) return false;
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!to_.budget.take(kept[i].buffer->bytes)) {
        return error(ErrorCode::insufficient_memory,
                     "a constant {} needs more than the {} bytes of memory_max",
                     TensorType{kept[i].dtype, kept[i].shape}.to_string(), to_.budget.max());
      }
      to_.slots[at(slots[i])] = leased(std::move(kept[i]));
    }
    return true;
  }

  // Lets other functions have what was just made, where nobody else holds it yet.
  void offer(int slot) {
    Array& array = to_.slots[at(slot)];
    if (store_ == nullptr || array.buffer == nullptr || array.buffer.use_count() != 1 ||
        array.buffer->bytes < kSharedBytesMin) {
      return;
    }
    array.buffer->budget = nullptr;  // it may outlive ours, which goes on counting it by the lease
    array = leased(store_->keep(ids_[at(slot)], {array.dtype, array.shape, array.buffer}));
  }

  // What the budget has taken for it goes back with our last use of it.
  Array leased(ConstantStore::Kept kept) {
    Buffer* const held = kept.buffer.get();
    const auto give_back = [budget = &to_.budget, owner = std::move(kept.buffer)](Buffer* buffer) {
      budget->give(buffer->bytes);
    };
    return {kept.dtype, std::move(kept.shape), std::shared_ptr<Buffer>(held, give_back), {}};
  }

  void plan_lifetimes() {
    constexpr size_t kKept = static_cast<size_t>(-1);
    std::vector<size_t> last(to_.slots.size(), kKept);
    for (size_t i = 0; i < to_.steps.size(); ++i) {
      for (const BoundParameter& bound : to_.steps[i].parameters) {
        for (const int slot : bound.slots) last[at(slot)] = i;
      }
      for (const int slot : to_.steps[i].result_slots) last[at(slot)] = i;
    }
    for (const int slot : to_.output_slots) last[at(slot)] = kKept;
    for (const int slot : states_) last[at(slot)] = kKept;
    for (size_t slot = 0; slot < last.size(); ++slot) {
      if (last[slot] != kKept && !known_[slot]) {
        to_.steps[last[slot]].dead_after.push_back(static_cast<int>(slot));
      }
    }
  }

  Loaded& to_;
  Crew& crew_;
  ConstantStore* store_;
  std::map<std::string, int, std::less<>> names_;
  std::map<std::string, int64_t, std::less<>> pending_uses_;
  std::set<int> states_;
  std::vector<const Value*> values_;  // by slot: of a constant that may not be decoded yet
  std::vector<bool> known_;           // by slot: known before the program runs
  std::vector<ValueType> types_;      // by slot
  std::vector<int64_t> uses_;         // by slot: those that folding has not done
  std::vector<int64_t> ids_;          // by slot: the store's number for what is known
  int64_t work_ = 0;
};

Error wrong_shape(const std::string& name, const Dims& shape, const std::string& wanted) {
  return error(ErrorCode::invalid_argument, "input {} has shape {}; the program takes {}", name,
               text_of(shape), wanted);
}

template <typename Input>
Result<void> check_shape(const Input& input, const Dims& shape) {
  const TensorType& declared = input.type.type.tensor;
  bool fits = declared.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] >= 0 && (declared.shape[i] == kUnknown || declared.shape[i] == shape[i]);
  }
  if (!fits) return wrong_shape(input.type.name, shape, declared.to_string());
  if (declared.fixed()) return {};
  if (!input.enumerated.empty() &&
      std::ranges::find(input.enumerated, shape) == input.enumerated.end()) {
    std::vector<std::string> shapes;
    for (const Dims& one : input.enumerated) shapes.push_back(text_of(one));
    return wrong_shape(input.type.name, shape, fmt::format("{}", fmt::join(shapes, " or ")));
  }
  if (input.enumerated.empty() && input.ranges.size() == shape.size()) {
    for (size_t i = 0; i < shape.size(); ++i) {
      const auto [lower, upper] = input.ranges[i];
      if (shape[i] < lower || (upper >= 0 && shape[i] > upper)) {
        return wrong_shape(input.type.name, shape,
                           fmt::format("{} to {} in dimension {}", lower,
                                       upper >= 0 ? std::to_string(upper) : std::string("any"), i));
      }
    }
  }
  return {};
}

template <typename Input>
Result<Array> array_of(const Input& input, const TensorValue& value,
                       const InterpreterOptions& options, Budget& budget,
                       std::vector<NumericEvent>& events) {
  IMPETUS_CHECK(check_shape(input, value.type.shape));
  const DataType dtype = input.type.type.tensor.dtype;
  const auto elements = elements_of(value.type.shape);
  const size_t given = is_float(dtype) ? value.floats.size() : value.ints.size();
  if (!elements || std::cmp_not_equal(given, *elements)) {
    return error(ErrorCode::invalid_argument, "input {} has {} {} values for shape {}",
                 input.type.name, given, is_float(dtype) ? "floating" : "integer",
                 text_of(value.type.shape));
  }
  if (*elements > budget.max() || !budget.take(*elements * 4)) {
    return error(ErrorCode::insufficient_memory, "input {}: needs more than memory_max = {} bytes",
                 input.type.name, budget.max());
  }
  Array array{dtype, value.type.shape, std::make_shared<Buffer>(), {}};
  array.buffer->budget = &budget;
  array.buffer->bytes = *elements * 4;
  if (is_float(dtype)) {
    array.buffer->floats = value.floats;
    Events seen(input.type.name, "input");
    seen.note(input.type.name, scan(array.buffer->floats, limit_of(dtype),
                                    dtype == DataType::f16 && options.round_f16));
    std::move(seen).append_to(events);
  } else {
    array.buffer->ints = value.ints;
    if (dtype == DataType::boolean) {
      for (int32_t& element : array.buffer->ints) element = element != 0;
    } else {
      wrap(array);
      if (array.buffer->ints != value.ints) {
        return error(ErrorCode::invalid_argument, "input {} has values outside {}", input.type.name,
                     to_string(dtype));
      }
    }
  }
  return array;
}

}  // namespace

Interpreter::Interpreter(std::unique_ptr<const Loaded> loaded) : loaded_(std::move(loaded)) {}
Interpreter::Interpreter(Interpreter&&) noexcept = default;
Interpreter& Interpreter::operator=(Interpreter&&) noexcept = default;
Interpreter::~Interpreter() = default;

const std::vector<NamedType>& Interpreter::inputs() const {
  return loaded_->input_types;
}
const std::vector<NamedType>& Interpreter::outputs() const {
  return loaded_->outputs;
}
int64_t Interpreter::weight_bytes() const {
  return loaded_->budget.used();
}

Result<Interpreter> Interpreter::load(const Model& model, const std::string& function,
                                      const InterpreterOptions& options, SharedConstants* shared) {
  const std::string& name = function.empty() ? model.default_function : function;
  IMPETUS_CHECK(validate_function(model, name, Unknown::refuse));
  const auto found = model.program.functions.find(name);
  const auto opset = opset_from(found->second.opset);
  const Block* block = found->second.block();
  if (!opset || block == nullptr) {
    return error(ErrorCode::unsupported, "function {}: no block of a known opset ({})", name,
                 found->second.opset);
  }
  auto loaded = std::make_unique<Loaded>(options);
  loaded->opset = *opset;
  Crew crew(options.threads);
  const auto description = std::ranges::find(model.functions, name, &FunctionDescription::name);
  Loader<Loaded> loader(*loaded, crew, shared == nullptr ? nullptr : shared->store_.get());
  auto done = loader.load(found->second,
                          description == model.functions.end() ? nullptr : &*description, *block);
  if (!done.ok()) return std::move(done).error().within(fmt::format("function {}", name));
  return Interpreter(std::move(loaded));
}

Result<RunResult> Interpreter::run(const TensorValues& inputs) const {
  const Loaded& loaded = *loaded_;
  Budget budget(loaded.options.memory_max, loaded.budget.used());
  std::vector<Array> slots = loaded.slots;
  RunResult result;
  result.events = loaded.events;
  for (const auto& [name, value] : inputs) {
    if (std::ranges::find(loaded.input_types, name, &NamedType::name) == loaded.input_types.end()) {
      std::vector<std::string> names;
      for (const NamedType& input : loaded.input_types) names.push_back(input.name);
      return error(ErrorCode::invalid_argument, "there is no input \"{}\"; the function takes {}",
                   name, fmt::join(names, ", "));
    }
  }
  for (const auto& input : loaded.inputs) {
    const auto value = inputs.find(input.type.name);
    if (value == inputs.end()) {
      return error(ErrorCode::invalid_argument, "input \"{}\" ({}) is missing", input.type.name,
                   input.type.type.to_string());
    }
    IMPETUS_TRY(slots[static_cast<size_t>(input.slot)],
                array_of(input, value->second, loaded.options, budget, result.events));
  }
  for (const auto& state : loaded.states) {
    const auto elements = state.type.elements();
    if (!elements || *elements > budget.max() || !budget.take(*elements * 4)) {
      return error(ErrorCode::insufficient_memory,
                   "a state {} needs more than memory_max = {} bytes", state.type.to_string(),
                   budget.max());
    }
    Array array{state.type.dtype, state.type.shape, std::make_shared<Buffer>(), {}};
    array.buffer->budget = &budget;
    array.buffer->bytes = *elements * 4;
    if (array.floating()) {
      array.buffer->floats.resize(static_cast<size_t>(*elements));
    } else {
      array.buffer->ints.resize(static_cast<size_t>(*elements));
    }
    slots[static_cast<size_t>(state.slot)] = std::move(array);
  }
  Crew crew(loaded.options.threads);
  Machine machine{loaded.options, budget, crew, slots, loaded.opset};
  for (const Step& step : loaded.steps) {
    IMPETUS_CHECK(perform(machine, step, result.events, &result.ranges));
    for (const int slot : step.dead_after) slots[static_cast<size_t>(slot)] = {};
  }
  for (size_t i = 0; i < loaded.outputs.size(); ++i) {
    const Array& array = slots[static_cast<size_t>(loaded.output_slots[i])];
    if (array.buffer == nullptr || array.dtype == DataType::string) {
      return error(ErrorCode::unsupported, "output {} is no tensor of numbers",
                   loaded.outputs[i].name);
    }
    result.outputs[loaded.outputs[i].name] = {
        {array.dtype, array.shape}, array.buffer->floats, array.buffer->ints};
  }
  return result;
}

}  // namespace impetus::mil
