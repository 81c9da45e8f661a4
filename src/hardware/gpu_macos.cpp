// GPU, Neural Engine, power and heat of a Mac. Not yet run on one (macos.h).
//
// Plain C++: IOKit is C, and Metal is asked through the Objective-C runtime's C functions.
#if defined(__APPLE__)

#include <CoreFoundation/CoreFoundation.h>
#include <IOKit/IOKitLib.h>
#include <IOKit/ps/IOPSKeys.h>
#include <IOKit/ps/IOPowerSources.h>
#include <objc/message.h>
#include <objc/runtime.h>

#include "hardware/files.h"
#include "hardware/known_machines.h"
#include "hardware/macos.h"
#include "hardware/neural_accelerators.h"

extern "C" {
id MTLCreateSystemDefaultDevice(void);
void* objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void* pool);
}

namespace impetus::hardware {
namespace {

// [object name], which returns a Value.
template <typename Value>
Value send(id object, const char* name) {
  using Function = Value (*)(id, SEL);
  return reinterpret_cast<Function>(&objc_msgSend)(object, sel_registerName(name));
}

bool responds(id object, const char* name) {
  using Function = bool (*)(id, SEL, SEL);
  return object != nullptr &&
         reinterpret_cast<Function>(&objc_msgSend)(object, sel_registerName("respondsToSelector:"),
                                                   sel_registerName(name));
}

std::string text_of(id string) {
  if (string == nullptr) return {};
  const char* bytes = send<const char*>(string, "UTF8String");
  return bytes ? printable(bytes) : "";
}

// Strings that a call returns live until the pool goes.
class Pool {
 public:
  Pool() : pool_(objc_autoreleasePoolPush()) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { objc_autoreleasePoolPop(pool_); }

 private:
  void* pool_;
};

int64_t number_of(CFTypeRef value) {
  int64_t number = 0;
  if (value && CFGetTypeID(value) == CFNumberGetTypeID()) {
    CFNumberGetValue(static_cast<CFNumberRef>(value), kCFNumberSInt64Type, &number);
  }
  return number;
}

std::string string_of(CFTypeRef value) {
  char text[128] = {};
  if (value && CFGetTypeID(value) == CFStringGetTypeID() &&
      CFStringGetCString(static_cast<CFStringRef>(value), text, sizeof text,
                         kCFStringEncodingUTF8)) {
    return printable(text);
  }
  return {};
}

// A property of the first service of a class; null where there is none. The caller releases it.
CFTypeRef property_of(const char* service_class, CFStringRef key) {
  const io_service_t service =
      IOServiceGetMatchingService(kIOMainPortDefault, IOServiceMatching(service_class));
  if (service == IO_OBJECT_NULL) return nullptr;
  CFTypeRef value = IORegistryEntryCreateCFProperty(service, key, kCFAllocatorDefault, 0);
  IOObjectRelease(service);
  return value;
}

int small(int64_t number) {
  return number > 0 && number < 65536 ? static_cast<int>(number) : 0;
}

}  // namespace

void macos_probe_gpu(Inventory& inventory) {
  const Pool pool;
  const id device = MTLCreateSystemDefaultDevice();
  if (device == nullptr) {
    inventory.missing.push_back({"gpu", "Metal shows no GPU to this process"});
    return;
  }
  GpuInfo gpu;
  gpu.id = "gpu0";
  gpu.api = "metal";
  gpu.driver = inventory.os.version;  // Metal comes with the system
  gpu.name = text_of(send<id>(device, "name"));
  gpu.vendor = gpu.name.starts_with("Apple") ? "Apple" : "";
  if (responds(device, "architecture")) {  // macOS 14
    gpu.architecture = text_of(send<id>(send<id>(device, "architecture"), "name"));
  }
  if (responds(device, "recommendedMaxWorkingSetSize")) {
    gpu.working_set_bytes =
        static_cast<int64_t>(send<uint64_t>(device, "recommendedMaxWorkingSetSize"));
  }
  // An administrator may have allowed the GPU another part of the memory.
  if (const int64_t wired = sysctl_int("iogpu.wired_limit_mb").value_or(0);
      wired > 0 && wired < int64_t{1} << 30) {
    gpu.working_set_bytes = wired << 20;
  }
  send<void>(device, "release");
  if (inventory.memory.unified) {
    gpu.memory_bytes = inventory.memory.total_bytes;
    gpu.available_bytes = inventory.memory.available_bytes;
  }
  if (const CFTypeRef cores = property_of("AGXAccelerator", CFSTR("gpu-core-count"))) {
    gpu.cores = small(number_of(cores));
    CFRelease(cores);
  }
  const AppleGpu generation = parse_apple_gpu(gpu.architecture);
  const MacosVersion macos = parse_macos_version(inventory.os.version);
  auto rule =
      neural_accelerator_rule(macos.major, macos.minor, generation.generation, generation.suffix);
  gpu.neural_accelerators = rule.used;
  gpu.neural_accelerators_why = std::move(rule.why);
  inventory.gpus.push_back(std::move(gpu));
}

void macos_probe_neural_engine(Inventory& inventory) {
  const CFTypeRef properties = property_of("H11ANEIn", CFSTR("DeviceProperties"));
  const CFTypeRef balancer =
      properties ? nullptr : property_of("H1xANELoadBalancer", CFSTR("IOClass"));
  if (!properties && !balancer) {
    inventory.missing.push_back({"npu", "IOKit shows no Neural Engine"});
    return;
  }
  NpuInfo npu;
  npu.id = "npu0";
  npu.vendor = "Apple";
  npu.name = "Apple Neural Engine";
  npu.driver = properties ? "H11ANEIn" : "H1xANELoadBalancer";
  if (properties && CFGetTypeID(properties) == CFDictionaryGetTypeID()) {
    const auto dictionary = static_cast<CFDictionaryRef>(properties);
    npu.cores =
        small(number_of(CFDictionaryGetValue(dictionary, CFSTR("ANEDevicePropertyNumANECores"))));
    npu.family = string_of(
        CFDictionaryGetValue(dictionary, CFSTR("ANEDevicePropertyTypeANEArchitectureTypeStr")));
  }
  if (properties) CFRelease(properties);
  if (balancer) CFRelease(balancer);
  inventory.npus.push_back(std::move(npu));
}

void macos_probe_power(Inventory& inventory) {
  const Pool pool;
  PowerInfo& power = inventory.power;
  if (const CFTypeRef sources = IOPSCopyPowerSourcesInfo()) {
    const std::string providing = string_of(IOPSGetProvidingPowerSourceType(sources));
    if (providing == "AC Power") power.source = "mains";
    if (providing == "Battery Power") power.source = "battery";
    if (const CFArrayRef list = IOPSCopyPowerSourcesList(sources)) {
      for (CFIndex i = 0; i < CFArrayGetCount(list); ++i) {
        const CFDictionaryRef source =
            IOPSGetPowerSourceDescription(sources, CFArrayGetValueAtIndex(list, i));
        if (!source) continue;
        const auto field = [&](const char* key) {
          const CFStringRef name =
              CFStringCreateWithCString(kCFAllocatorDefault, key, kCFStringEncodingUTF8);
          const CFTypeRef value = name ? CFDictionaryGetValue(source, name) : nullptr;
          if (name) CFRelease(name);
          return value;
        };
        if (string_of(field(kIOPSTypeKey)) != kIOPSInternalBatteryType) continue;
        const int64_t most = number_of(field(kIOPSMaxCapacityKey));
        const int64_t now = number_of(field(kIOPSCurrentCapacityKey));
        if (most > 0 && now >= 0 && now <= most) {
          power.battery_percent = 100 * static_cast<double>(now) / static_cast<double>(most);
        }
      }
      CFRelease(list);
    }
    CFRelease(sources);
  }
  if (const auto process_info = reinterpret_cast<id>(objc_getClass("NSProcessInfo"))) {
    const id process = send<id>(process_info, "processInfo");
    if (responds(process, "thermalState")) {
      constexpr const char* kStates[] = {"nominal", "fair", "serious", "critical"};
      const auto state = send<long>(process, "thermalState");
      if (state >= 0 && state < 4) power.thermal = kStates[state];
    }
  }
  if (power.thermal.empty()) {
    inventory.missing.push_back({"thermal", "the system does not tell"});
  }
}

}  // namespace impetus::hardware

#endif
