#include "coreml/apple_model.h"

#include <algorithm>
#include <array>
#include <map>

#include <unistd.h>

#include "base/file_lock.h"
#include "base/log.h"
#include "base/sha256.h"

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;

constexpr int kPortsMax = 256;

int units_of(ComputeUnits units) {
  switch (units) {
    case ComputeUnits::cpu_and_neural_engine:
      return kImpetusCpuAndNeuralEngine;
    case ComputeUnits::all:
      return kImpetusAll;
    case ComputeUnits::cpu_and_gpu:
      return kImpetusCpuAndGpu;
    case ComputeUnits::cpu_only:
      return kImpetusCpuOnly;
  }
  return kImpetusCpuOnly;
}

// A failure's text, if there was one, freed when it is read.
class Failure {
 public:
  explicit Failure(const ImpetusCoreml& coreml) : coreml_(coreml) {}
  ~Failure() {
    if (text_ != nullptr) coreml_.free_text(text_);
  }
  Failure(const Failure&) = delete;
  Failure& operator=(const Failure&) = delete;
  char** slot() { return &text_; }
  Error as(ErrorCode code, std::string_view where) const {
    return error(code, "{}: {}", where, text_ != nullptr ? text_ : "Core ML gave no reason");
  }

 private:
  const ImpetusCoreml& coreml_;
  char* text_ = nullptr;
};

std::vector<std::string> told(void (*ask)(void*, void (*)(void*, const char*))) {
  std::vector<std::string> texts;
  ask(&texts, [](void* context, const char* text) {
    static_cast<std::vector<std::string>*>(context)->emplace_back(text);
  });
  return texts;
}

std::string environment_of(const ImpetusCoreml& coreml) {
  const auto texts = told(coreml.environment);
  return texts.empty() ? "unknown" : texts.front();
}

Result<std::vector<DeviceOperation>> placement(const ImpetusCoreml& coreml,
                                               const fs::path& compiled,
                                               const std::string& function, ComputeUnits units) {
  std::vector<DeviceOperation> operations;
  Failure failure(coreml);
  const int done = coreml.placement(
      compiled.c_str(), function.c_str(), units_of(units), &operations,
      [](void* context, const ImpetusOperation* one) {
        static_cast<std::vector<DeviceOperation>*>(context)->push_back(
            {one->function, one->type, one->output, one->device, one->cost, one->on_engine != 0});
      },
      failure.slot());
  if (!done) return failure.as(ErrorCode::unsupported, compiled.filename().string());
  return operations;
}

// "coreml-ane", "coreml-ane+cpu": the devices that Core ML means to use, the most used first.
std::string name_of(const Result<std::vector<DeviceOperation>>& operations) {
  std::string name = "coreml";
  if (!operations.ok()) return name;
  std::map<std::string, int> counts;
  for (const DeviceOperation& one : *operations) {
    if (!one.device.empty()) ++counts[one.device];
  }
  std::vector<std::pair<int, std::string>> order;
  for (const auto& [device, count] : counts) order.emplace_back(-count, device);
  std::ranges::sort(order);
  for (const auto& [count, device] : order) name += (name == "coreml" ? "-" : "+") + device;
  return name;
}

mil::DataType dtype_of(int type) {
  return type == kImpetusFloat16   ? mil::DataType::f16
         : type == kImpetusFloat32 ? mil::DataType::f32
         : type == kImpetusInt32   ? mil::DataType::i32
                                   : mil::DataType::string;  // none that is fed
}

class AppleModel final : public CompiledModel {
 public:
  AppleModel(const ImpetusCoreml& coreml, ImpetusModel* model, std::string place, std::string name)
      : coreml_(coreml), model_(model), place_(std::move(place)), name_(std::move(name)) {
    for (const bool outputs : {false, true}) {
      std::array<ImpetusPort, kPortsMax> list{};
      const int count = coreml_.ports(model_, outputs, list.data(), kPortsMax);
      for (const ImpetusPort& port : std::span(list).first(static_cast<size_t>(count))) {
        const int rank = std::clamp(port.rank, 0, static_cast<int>(kImpetusRankMax));
        (outputs ? outputs_ : inputs_)
            .push_back({port.name, {dtype_of(port.type), {port.shape, port.shape + rank}}});
      }
    }
  }
  ~AppleModel() override { coreml_.release(model_); }

  std::string_view ran_on() const override { return name_; }
  const std::vector<Port>& inputs() const override { return inputs_; }
  const std::vector<Port>& outputs() const override { return outputs_; }
  Result<StridedView> input(const std::string& name) override { return view(inputs_, name); }
  Result<StridedView> output(const std::string& name) override { return view(outputs_, name); }
  Result<void> predict() override {
    Failure failure(coreml_);
    if (coreml_.predict(model_, failure.slot())) return {};
    return failure.as(ErrorCode::unavailable, place_);
  }

 private:
  Result<StridedView> view(const std::vector<Port>& ports, const std::string& name) {
    const auto port = std::ranges::find(ports, name, &Port::name);
    if (port == ports.end()) return error(ErrorCode::not_found, "{} has no '{}'", place_, name);
    ImpetusView view{};
    Failure failure(coreml_);
    if (!coreml_.view(model_, &ports == &outputs_, name.c_str(), &view, failure.slot())) {
      return failure.as(ErrorCode::internal, place_);
    }
    return StridedView{port->type,
                       static_cast<std::byte*>(view.data),
                       {view.strides, view.strides + port->type.shape.size()}};
  }

  const ImpetusCoreml& coreml_;
  ImpetusModel* model_;
  std::string place_, name_;
  std::vector<Port> inputs_, outputs_;
};

class AppleLoader final : public ModelLoader {
 public:
  explicit AppleLoader(const ImpetusCoreml& coreml)
      : coreml_(coreml), environment_(environment_of(coreml)) {}

  std::string_view name() const override { return "coreml"; }
  std::string description() const override { return "Core ML, " + environment_; }
  bool emulated() const override { return false; }
  std::string environment() const override { return environment_; }

  // Its weights, and as much again for what the system makes of them.
  Result<int64_t> bytes_needed(const fs::path& package, const std::string&) const override {
    int64_t bytes = 0;
    std::error_code code;
    for (fs::recursive_directory_iterator at(package, code), end; !code && at != end;
         at.increment(code)) {
      std::error_code own;
      if (at->is_regular_file(own)) bytes += static_cast<int64_t>(at->file_size(own));
    }
    if (code) return error(ErrorCode::io, "{}: {}", package.string(), code.message());
    return 2 * bytes;
  }

  Result<std::unique_ptr<CompiledModel>> load(const fs::path& package, const std::string& function,
                                              const fs::path& cache, ComputeUnits units) override {
    // Compiled forms are this system's, this chip's and these units'.
    const fs::path folder =
        cache / sha256_hex(fmt::format("{}\n{}", environment_, units_of(units))).substr(0, 16);
    const fs::path compiled = folder / (package.stem().string() + ".mlmodelc");
    std::error_code code;
    fs::create_directories(folder, code);
    if (code) return error(ErrorCode::io, "{}: {}", folder.string(), code.message());
    IMPETUS_TRY(const FileLock lock, FileLock::take(folder / "lock", FileLock::Kind::exclusive));
    const bool found = fs::exists(compiled, code);
    if (!found) IMPETUS_CHECK(compile(package, compiled));
    auto model = load_compiled(compiled, function, units);
    if (!model.ok() && found) {
      // It may be damaged, or another system's in spite of its name.
      log::warn("{}; compiled anew", model.error().message);
      fs::remove_all(compiled, code);
      IMPETUS_CHECK(compile(package, compiled));
      model = load_compiled(compiled, function, units);
    }
    return model;
  }

 private:
  Result<void> compile(const fs::path& package, const fs::path& compiled) {
    fs::path fresh = compiled;
    fresh += ".new";
    std::error_code code;
    fs::remove_all(fresh, code);
    Failure failure(coreml_);
    if (!coreml_.compile(package.c_str(), fresh.c_str(), failure.slot())) {
      return failure.as(ErrorCode::unsupported, package.string());
    }
    fs::rename(fresh, compiled, code);
    if (code) return error(ErrorCode::io, "{}: {}", compiled.string(), code.message());
    return {};
  }
  Result<std::unique_ptr<CompiledModel>> load_compiled(const fs::path& compiled,
                                                       const std::string& function,
                                                       ComputeUnits units) {
    const std::string place = function.empty() ? compiled.filename().string()
                                               : compiled.filename().string() + ", " + function;
    // Before macOS 15 there is one function, without a name to ask for.
    const std::string asked = function == "main" ? "" : function;
    Failure failure(coreml_);
    ImpetusModel* model =
        coreml_.load(compiled.c_str(), asked.c_str(), units_of(units), failure.slot());
    if (model == nullptr) return failure.as(ErrorCode::unsupported, place);
    return std::unique_ptr<CompiledModel>(std::make_unique<AppleModel>(
        coreml_, model, place, name_of(placement(coreml_, compiled, asked, units))));
  }

  const ImpetusCoreml& coreml_;
  std::string environment_;
};

}  // namespace

std::shared_ptr<ModelLoader> make_apple_loader(const ImpetusCoreml& coreml) {
  return std::make_shared<AppleLoader>(coreml);
}

Result<SystemCoreml> system_coreml() {
#ifdef __APPLE__
  const ImpetusCoreml& coreml = *impetus_coreml();
  return SystemCoreml{make_apple_loader(coreml), coreml.macos_major()};
#else
  return error(ErrorCode::unsupported, "Core ML is macOS's: this system has none");
#endif
}

Result<DeviceReport> on_device_report(const fs::path& package, const std::string& function,
                                      ComputeUnits units) {
#ifdef __APPLE__
  return on_device_report(*impetus_coreml(), package, function, units);
#else
  return error(ErrorCode::unsupported,
               "{}: what a device makes of it only a Mac can say; this system has no Core ML",
               package.string());
#endif
}

Result<DeviceReport> on_device_report(const ImpetusCoreml& coreml, const fs::path& package,
                                      const std::string& function, ComputeUnits units) {
  std::error_code code;
  std::string name = (fs::temp_directory_path(code) / "impetus-on-device-XXXXXX").string();
  if (code || ::mkdtemp(name.data()) == nullptr) {
    return error(ErrorCode::io, "no temporary folder can be made");
  }
  const std::unique_ptr<fs::path, void (*)(fs::path*)> folder(new fs::path(name),
                                                              [](fs::path* path) {
                                                                std::error_code ignored;
                                                                fs::remove_all(*path, ignored);
                                                                delete path;
                                                              });
  const fs::path compiled = *folder / (package.stem().string() + ".mlmodelc");
  Failure failure(coreml);
  if (!coreml.compile(package.c_str(), compiled.c_str(), failure.slot())) {
    return failure.as(ErrorCode::unsupported, package.string());
  }
  DeviceReport report;
  report.system = environment_of(coreml);
  report.devices = told(coreml.devices);
  IMPETUS_TRY(report.operations, placement(coreml, compiled, function, units));
  return report;
}

}  // namespace impetus::coreml
