// Packages run by mil/'s interpreter, behind the interface of Apple's framework: tensors of its own
// with padded rows, and not-a-number in the padding, so that whoever ignores strides is found out.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include <sys/stat.h>

#include "base/log.h"
#include "coreml/coreml_backend.h"
#include "coreml/strided.h"
#include "mil/interpreter.h"
#include "mil/package.h"
#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

constexpr std::string_view kName = "coreml-emulated";
constexpr int64_t kRowBytes = 64;  // as the Neural Engine pads rows

// A port's memory.
struct Buffer {
  std::vector<std::byte> bytes;
  StridedView view;
};

Result<Buffer> buffer_of(const mil::NamedType& port) {
  Buffer buffer;
  buffer.view.type = port.type.tensor;
  const auto type = port.type.tensor.dtype;
  if (port.type.kind != mil::ValueType::Kind::tensor || port.type.tensor.shape.empty() ||
      (type != mil::DataType::f16 && type != mil::DataType::f32)) {
    return error(ErrorCode::unsupported, "'{}' is {}; the backend feeds tensors of fp16 or fp32",
                 port.name, port.type.to_string());
  }
  buffer.view.strides = padded_strides(port.type.tensor, kRowBytes);
  const auto span = span_of(buffer.view);
  if (!span) return error(ErrorCode::corrupt, "'{}' has no size", port.name);
  const int64_t width = mil::bits_of(type) / 8;
  const int64_t bytes = (*span * width + kRowBytes - 1) / kRowBytes * kRowBytes;
  buffer.bytes.assign(static_cast<size_t>(bytes), std::byte{0xff});  // no number in either type
  buffer.view.data = buffer.bytes.data();
  return buffer;
}

// A package that is open, and what its loaded functions have in common.
struct OpenPackage {
  mil::Package package;
  mil::SharedConstants constants;
};

// The packages that loaded functions stand on, so that those of one package share its weights.
class OpenPackages {
 public:
  // From what is open, where the folder has not been replaced since.
  Result<std::shared_ptr<OpenPackage>> open(const std::filesystem::path& path) {
    struct stat now = {};
    if (::stat(path.c_str(), &now) != 0) {
      return error(ErrorCode::not_found, "{}: no such package", path.string());
    }
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [](const auto& entry) { return entry.second.package.expired(); });
    if (const auto found = entries_.find(path); found != entries_.end()) {
      const Entry& entry = found->second;
      auto package = entry.package.lock();
      if (package && entry.device == now.st_dev && entry.node == now.st_ino) return package;
    }
    auto opened = std::make_shared<OpenPackage>();
    IMPETUS_TRY(opened->package, mil::open_package(path));
    entries_[path] = {opened, now.st_dev, now.st_ino};
    return opened;
  }

 private:
  struct Entry {
    std::weak_ptr<OpenPackage> package;
    dev_t device = 0;
    ino_t node = 0;  // writers rename a new folder into place
  };
  std::mutex mutex_;
  std::map<std::filesystem::path, Entry> entries_;
};

class EmulatedModel final : public CompiledModel {
 public:
  static Result<std::unique_ptr<CompiledModel>> load(std::shared_ptr<OpenPackage> package,
                                                     const std::filesystem::path& path,
                                                     const std::string& function, int threads) {
    auto model = std::unique_ptr<EmulatedModel>(new EmulatedModel);
    model->name_ = fmt::format("{}, {}", path.filename().string(), function);
    IMPETUS_TRY(mil::Interpreter interpreter,
                mil::Interpreter::load(package->package.model, function, {.threads = threads},
                                       &package->constants));
    for (const auto* side : {&interpreter.inputs(), &interpreter.outputs()}) {
      auto& ports = side == &interpreter.inputs() ? model->inputs_ : model->outputs_;
      for (const mil::NamedType& port : *side) {
        auto buffer = buffer_of(port);
        if (!buffer.ok()) return std::move(buffer).error().within(model->name_);
        model->buffers_.emplace(port.name, std::move(*buffer));
        ports.push_back({port.name, port.type.tensor});
      }
    }
    model->interpreter_ = std::make_unique<mil::Interpreter>(std::move(interpreter));
    model->package_ = std::move(package);
    return std::unique_ptr<CompiledModel>(std::move(model));
  }

  std::string_view ran_on() const override { return kName; }
  const std::vector<Port>& inputs() const override { return inputs_; }
  const std::vector<Port>& outputs() const override { return outputs_; }
  Result<StridedView> input(const std::string& name) override { return find(inputs_, name); }
  Result<StridedView> output(const std::string& name) override { return find(outputs_, name); }

  Result<void> predict() override {
    mil::TensorValues values;
    for (const Port& port : inputs_) {
      mil::TensorValue& value = values[port.name];
      value.type = port.type;
      value.floats.resize(static_cast<size_t>(*port.type.elements()));
      read_strided(buffers_.at(port.name).view, value.floats);
    }
    IMPETUS_TRY(const mil::RunResult result, interpreter_->run(values));
    if (!result.events.empty() && !std::exchange(told_, true)) {
      const mil::NumericEvent& event = result.events.front();
      log::warn("{}: {} of '{}' ({}) {} (said once; {} such operations)", name_,
                event.kind == mil::NumericEvent::Kind::nan ? "values" : "results", event.tensor,
                event.type,
                event.kind == mil::NumericEvent::Kind::nan ? "are no numbers" : "overflow fp16",
                result.events.size());
    }
    for (const Port& port : outputs_) {
      const auto found = result.outputs.find(port.name);
      if (found == result.outputs.end() ||
          static_cast<int64_t>(found->second.floats.size()) != port.type.elements()) {
        return error(ErrorCode::internal, "{}: no '{}' came out", name_, port.name);
      }
      write_strided(found->second.floats, buffers_.at(port.name).view);
    }
    return {};
  }

 private:
  EmulatedModel() = default;
  Result<StridedView> find(const std::vector<Port>& ports, const std::string& name) const {
    if (std::ranges::find(ports, name, &Port::name) == ports.end()) {
      return error(ErrorCode::not_found, "{} has no '{}'", name_, name);
    }
    return buffers_.at(name).view;
  }

  std::string name_;
  std::shared_ptr<OpenPackage> package_;  // so that functions loaded later find it
  std::unique_ptr<mil::Interpreter> interpreter_;
  std::vector<Port> inputs_, outputs_;
  std::map<std::string, Buffer> buffers_;
  bool told_ = false;
};

class EmulatedLoader final : public ModelLoader {
 public:
  explicit EmulatedLoader(int threads) : threads_(std::max(1, threads)) {}

  std::string_view name() const override { return kName; }
  std::string description() const override {
    return fmt::format("a Neural Engine emulated on the CPU, {} thread{}", threads_,
                       threads_ == 1 ? "" : "s");
  }
  bool emulated() const override { return true; }
  std::string environment() const override { return "emulator"; }

  Result<int64_t> bytes_needed(const std::filesystem::path& path,
                               const std::string& function) const override {
    IMPETUS_TRY(const auto open, packages_->open(path));
    const auto& functions = open->package.model.program.functions;
    const auto found = functions.find(function);
    const mil::Block* block = found == functions.end() ? nullptr : found->second.block();
    if (block == nullptr) {
      return error(ErrorCode::not_found, "{}: there is no function '{}'", path.string(), function);
    }
    // Constants stay decoded as f32, those that a loaded function holds already once; of the results
    // those live at once that an operation reads and writes, and what waits for later.
    int64_t constants = 0, largest = 0;
    for (const mil::Operation& operation : block->operations) {
      const bool constant = operation.type == "const" || operation.type.starts_with("constexpr_");
      for (const mil::NamedType& output : operation.outputs) {
        const int64_t bytes = output.type.tensor.elements().value_or(0) * 4;
        if (constant) constants += bytes;
        if (!constant) largest = std::max(largest, bytes);
      }
    }
    return std::max<int64_t>(0, constants - open->constants.bytes()) + 6 * largest;
  }

  Result<std::unique_ptr<CompiledModel>> load(const std::filesystem::path& package,
                                              const std::string& function,
                                              const std::filesystem::path&, ComputeUnits) override {
    IMPETUS_TRY(auto open, packages_->open(package));
    return EmulatedModel::load(std::move(open), package, function, threads_);
  }

 private:
  int threads_;
  std::unique_ptr<OpenPackages> packages_ = std::make_unique<OpenPackages>();
};

}  // namespace

std::shared_ptr<ModelLoader> make_emulated_loader(int threads) {
  return std::make_shared<EmulatedLoader>(threads);
}

}  // namespace impetus::coreml
