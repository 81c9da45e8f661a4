// The only file that calls Core ML. Thin on purpose: it moves pointers, names and errors across and
// decides nothing. Compiled with ARC (CMakeLists.txt); on other systems the suite checks its syntax
// and the availability of what it calls (tests/coreml).
#import <CoreML/CoreML.h>
#import <CoreVideo/CoreVideo.h>
#import <Foundation/Foundation.h>

#include <stdlib.h>
#include <string.h>
#include <sys/sysctl.h>

#include "coreml/apple_bridge.h"

// One input or output with the memory that stands for it.
@interface ImpetusTensor : NSObject
@property(nonatomic, copy) NSString* name;
@property(nonatomic) int type;
@property(nonatomic, copy) NSArray<NSNumber*>* shape;
@property(nonatomic, strong) MLMultiArray* own;   // what this file made
@property(nonatomic, strong) MLMultiArray* used;  // what the last prediction gave instead, or `own`
@property(nonatomic) CVPixelBufferRef locked;     // for the host
@end

@implementation ImpetusTensor
- (void)unlock {
  if (_locked == NULL) return;
  CVPixelBufferUnlockBaseAddress(_locked, 0);
  CVPixelBufferRelease(_locked);
  _locked = NULL;
}
- (void)dealloc {
  [self unlock];
}
@end

@interface ImpetusLoaded : NSObject
@property(nonatomic, strong) MLModel* model;
@property(nonatomic, copy) NSArray<ImpetusTensor*>* inputs;
@property(nonatomic, copy) NSArray<ImpetusTensor*>* outputs;
@property(nonatomic, strong) id<MLFeatureProvider> features;
@property(nonatomic, strong) MLPredictionOptions* options;
@end

@implementation ImpetusLoaded
@end

struct ImpetusModel {
  ImpetusLoaded* loaded;
};

namespace {

void fail(char** failure, NSString* text) {
  const char* bytes = text.UTF8String;
  *failure = strdup(bytes != NULL ? bytes : "an error without a text");
}

void fail(char** failure, NSError* error, NSString* what) {
  NSError* under = error.userInfo[NSUnderlyingErrorKey];
  NSString* text = error != nil ? error.localizedDescription : @"no reason was given";
  if (under != nil) text = [text stringByAppendingFormat:@" (%@)", under.localizedDescription];
  fail(failure, [NSString stringWithFormat:@"%@: %@", what, text]);
}

// Runs `body`, and turns what Apple's code throws into a failure.
template <typename Body>
bool caught(char** failure, Body body) {
  @autoreleasepool {
    @try {
      return body();
    } @catch (NSException* exception) {
      fail(failure, [NSString stringWithFormat:@"%@: %@", exception.name, exception.reason]);
      return false;
    }
  }
}

NSString* text_of(const char* bytes) {
  return [NSString stringWithUTF8String:bytes];
}

NSURL* url_of(const char* path) {
  return [NSURL fileURLWithPath:text_of(path)];
}

MLModelConfiguration* configuration_of(const char* function, int units, char** failure) {
  MLModelConfiguration* configuration = [[MLModelConfiguration alloc] init];
  switch (units) {
    case kImpetusCpuAndNeuralEngine:
      configuration.computeUnits = MLComputeUnitsCPUAndNeuralEngine;
      break;
    case kImpetusAll:
      configuration.computeUnits = MLComputeUnitsAll;
      break;
    case kImpetusCpuAndGpu:
      configuration.computeUnits = MLComputeUnitsCPUAndGPU;
      break;
    default:
      configuration.computeUnits = MLComputeUnitsCPUOnly;
  }
  if (function[0] == '\0') return configuration;
  if (@available(macOS 15.0, *)) {
    configuration.functionName = text_of(function);
    return configuration;
  }
  fail(failure, @"models with several functions need macOS 15");
  return nil;
}

int type_of(MLMultiArrayDataType type) {
  switch (type) {
    case MLMultiArrayDataTypeFloat16:
      return kImpetusFloat16;
    case MLMultiArrayDataTypeFloat32:
      return kImpetusFloat32;
    case MLMultiArrayDataTypeInt32:
      return kImpetusInt32;
    default:
      return 0;
  }
}

// fp16 in an IOSurface, which the Neural Engine reads without a copy; nil where there is none.
MLMultiArray* surface_array(NSArray<NSNumber*>* shape) {
  size_t width = shape.lastObject.unsignedIntegerValue, height = 1;
  for (NSUInteger d = 0; d + 1 < shape.count; ++d) height *= shape[d].unsignedIntegerValue;
  CVPixelBufferRef buffer = NULL;
  NSDictionary* attributes = @{(__bridge NSString*)kCVPixelBufferIOSurfacePropertiesKey : @{}};
  if (CVPixelBufferCreate(kCFAllocatorDefault, width, height, kCVPixelFormatType_OneComponent16Half,
                          (__bridge CFDictionaryRef)attributes, &buffer) != kCVReturnSuccess) {
    return nil;
  }
  MLMultiArray* array = [[MLMultiArray alloc] initWithPixelBuffer:buffer shape:shape];
  CVPixelBufferRelease(buffer);
  return array;
}

ImpetusTensor* tensor_of(MLFeatureDescription* description, char** failure) {
  MLMultiArrayConstraint* constraint = description.multiArrayConstraint;
  if (constraint == nil || constraint.shape.count == 0 ||
      constraint.shape.count > (NSUInteger)kImpetusRankMax) {
    fail(failure, [NSString stringWithFormat:@"'%@' is no tensor", description.name]);
    return nil;
  }
  ImpetusTensor* tensor = [[ImpetusTensor alloc] init];
  tensor.name = description.name;
  tensor.type = type_of(constraint.dataType);
  tensor.shape = constraint.shape;
  if (constraint.dataType == MLMultiArrayDataTypeFloat16) {
    tensor.own = surface_array(constraint.shape);
  }
  if (tensor.own == nil) {
    NSError* error = nil;
    tensor.own = [[MLMultiArray alloc] initWithShape:constraint.shape
                                            dataType:constraint.dataType
                                               error:&error];
    if (tensor.own == nil) {
      fail(failure, error, [NSString stringWithFormat:@"no memory for '%@'", description.name]);
      return nil;
    }
  }
  tensor.used = tensor.own;
  return tensor;
}

NSArray<ImpetusTensor*>* tensors_of(NSDictionary<NSString*, MLFeatureDescription*>* descriptions,
                                    char** failure) {
  NSMutableArray<ImpetusTensor*>* tensors = [NSMutableArray array];
  for (NSString* name in descriptions) {
    ImpetusTensor* tensor = tensor_of(descriptions[name], failure);
    if (tensor == nil) return nil;
    [tensors addObject:tensor];
  }
  return tensors;
}

// What MLAllComputeDevices and the compute plan call a device.
const char* device_name(id<MLComputeDeviceProtocol> device) API_AVAILABLE(macos(14.0)) {
  if ([device isKindOfClass:[MLNeuralEngineComputeDevice class]]) return "ane";
  if ([device isKindOfClass:[MLGPUComputeDevice class]]) return "gpu";
  if ([device isKindOfClass:[MLCPUComputeDevice class]]) return "cpu";
  return "";
}

void environment(void* context, void (*tell)(void* context, const char* text)) {
  @autoreleasepool {
    char chip[256] = "";
    size_t size = sizeof chip - 1;
    sysctlbyname("machdep.cpu.brand_string", chip, &size, NULL, 0);
    NSString* system = [NSProcessInfo processInfo].operatingSystemVersionString;
    tell(context, [system stringByAppendingFormat:@", %s", chip].UTF8String);
  }
}

int macos_major() {
  return (int)[NSProcessInfo processInfo].operatingSystemVersion.majorVersion;
}

void devices(void* context, void (*tell)(void* context, const char* text)) {
  if (@available(macOS 14.0, *)) {
    @autoreleasepool {
      for (id<MLComputeDeviceProtocol> device in MLAllComputeDevices()) {
        NSString* text = text_of(device_name(device));
        if ([device isKindOfClass:[MLNeuralEngineComputeDevice class]]) {
          const NSInteger cores = ((MLNeuralEngineComputeDevice*)device).totalCoreCount;
          text = [text stringByAppendingFormat:@", %ld cores", (long)cores];
        }
        tell(context, text.UTF8String);
      }
    }
  }
}

int compile(const char* package, const char* destination, char** failure) {
  return caught(failure, [&] {
    __block NSURL* compiled = nil;
    __block NSError* error = nil;
    dispatch_semaphore_t done = dispatch_semaphore_create(0);
    [MLModel compileModelAtURL:url_of(package)
             completionHandler:^(NSURL* result, NSError* reason) {
               compiled = result;
               error = reason;
               dispatch_semaphore_signal(done);
             }];
    dispatch_semaphore_wait(done, DISPATCH_TIME_FOREVER);
    if (compiled == nil) return fail(failure, error, @"Core ML did not compile it"), false;
    // It stands in a temporary folder, perhaps of another volume.
    NSError* moved = nil;
    if (![[NSFileManager defaultManager] moveItemAtURL:compiled
                                                 toURL:url_of(destination)
                                                 error:&moved]) {
      [[NSFileManager defaultManager] removeItemAtURL:compiled error:NULL];
      return fail(failure, moved, @"what was compiled cannot be kept"), false;
    }
    return true;
  });
}

ImpetusModel* load(const char* compiled, const char* function, int units, char** failure) {
  ImpetusModel* made = NULL;
  caught(failure, [&] {
    MLModelConfiguration* configuration = configuration_of(function, units, failure);
    if (configuration == nil) return false;
    NSError* error = nil;
    ImpetusLoaded* loaded = [[ImpetusLoaded alloc] init];
    loaded.model = [MLModel modelWithContentsOfURL:url_of(compiled)
                                     configuration:configuration
                                             error:&error];
    if (loaded.model == nil) return fail(failure, error, @"Core ML did not load it"), false;
    loaded.inputs = tensors_of(loaded.model.modelDescription.inputDescriptionsByName, failure);
    if (loaded.inputs == nil) return false;
    loaded.outputs = tensors_of(loaded.model.modelDescription.outputDescriptionsByName, failure);
    if (loaded.outputs == nil) return false;

    NSMutableDictionary<NSString*, MLFeatureValue*>* values = [NSMutableDictionary dictionary];
    for (ImpetusTensor* tensor in loaded.inputs) {
      values[tensor.name] = [MLFeatureValue featureValueWithMultiArray:tensor.own];
    }
    loaded.features = [[MLDictionaryFeatureProvider alloc] initWithDictionary:values error:&error];
    if (loaded.features == nil) return fail(failure, error, @"the inputs were refused"), false;
    NSMutableDictionary<NSString*, id>* backings = [NSMutableDictionary dictionary];
    for (ImpetusTensor* tensor in loaded.outputs) backings[tensor.name] = tensor.own;
    loaded.options = [[MLPredictionOptions alloc] init];
    loaded.options.outputBackings = backings;
    made = new ImpetusModel{loaded};
    return true;
  });
  return made;
}

void release(ImpetusModel* model) {
  @autoreleasepool {
    delete model;
  }
}

int ports(const ImpetusModel* model, int outputs, ImpetusPort* list, int max) {
  NSArray<ImpetusTensor*>* tensors = outputs ? model->loaded.outputs : model->loaded.inputs;
  int count = 0;
  for (ImpetusTensor* tensor in tensors) {
    if (count == max) break;
    ImpetusPort* port = &list[count++];
    port->name = tensor.name.UTF8String;
    port->type = tensor.type;
    port->rank = (int)tensor.shape.count;
    for (int d = 0; d < port->rank; ++d) {
      port->shape[d] = tensor.shape[(NSUInteger)d].longLongValue;
    }
  }
  return count;
}

int view(ImpetusModel* model, int output, const char* name, ImpetusView* into, char** failure) {
  return caught(failure, [&] {
    NSString* wanted = text_of(name);
    for (ImpetusTensor* tensor in output ? model->loaded.outputs : model->loaded.inputs) {
      if (![tensor.name isEqualToString:wanted]) continue;
      MLMultiArray* array = tensor.used;
      CVPixelBufferRef buffer = array.pixelBuffer;
      if (buffer != NULL && tensor.locked == NULL) {
        if (CVPixelBufferLockBaseAddress(buffer, 0) != kCVReturnSuccess) {
          return fail(failure, @"a surface cannot be locked"), false;
        }
        tensor.locked = CVPixelBufferRetain(buffer);
      }
      // The strides are the buffer's at this time: not always those that the array named before.
      // The pointer stays: the surface is locked, other memory does not move.
      __block void* data = NULL;
      int64_t* strides_out = into->strides;
      [array getMutableBytesWithHandler:^(void* bytes, NSInteger, NSArray<NSNumber*>* strides) {
        data = bytes;
        for (NSUInteger d = 0; d < strides.count && d < (NSUInteger)kImpetusRankMax; ++d) {
          strides_out[d] = strides[d].longLongValue;
        }
      }];
      into->data = data;
      return true;
    }
    return fail(failure, [NSString stringWithFormat:@"there is no '%@'", wanted]), false;
  });
}

int predict(ImpetusModel* model, char** failure) {
  return caught(failure, [&] {
    ImpetusLoaded* loaded = model->loaded;
    for (ImpetusTensor* tensor in loaded.inputs) [tensor unlock];
    for (ImpetusTensor* tensor in loaded.outputs) [tensor unlock];
    NSError* error = nil;
    id<MLFeatureProvider> results = [loaded.model predictionFromFeatures:loaded.features
                                                                 options:loaded.options
                                                                   error:&error];
    if (results == nil) return fail(failure, error, @"the prediction failed"), false;
    for (ImpetusTensor* tensor in loaded.outputs) {
      // Core ML takes the backing that it was offered, or not.
      MLMultiArray* array = [results featureValueForName:tensor.name].multiArrayValue;
      if (array == nil || ![array.shape isEqualToArray:tensor.shape] ||
          type_of(array.dataType) != tensor.type) {
        return fail(failure, [NSString stringWithFormat:@"'%@' came out otherwise than promised",
                                                        tensor.name]),
               false;
      }
      tensor.used = array;
    }
    return true;
  });
}

int placement(const char* compiled, const char* function, int units, void* context,
              void (*visit)(void* context, const ImpetusOperation* operation), char** failure) {
  if (@available(macOS 14.4, *)) {
    return caught(failure, [&] {
      MLModelConfiguration* configuration = configuration_of(function, units, failure);
      if (configuration == nil) return false;
      __block MLComputePlan* plan = nil;
      __block NSError* error = nil;
      dispatch_semaphore_t done = dispatch_semaphore_create(0);
      [MLComputePlan loadContentsOfURL:url_of(compiled)
                         configuration:configuration
                     completionHandler:^(MLComputePlan* result, NSError* reason) {
                       plan = result;
                       error = reason;
                       dispatch_semaphore_signal(done);
                     }];
      dispatch_semaphore_wait(done, DISPATCH_TIME_FOREVER);
      if (plan == nil) return fail(failure, error, @"Core ML gave no compute plan"), false;
      MLModelStructureProgram* program = plan.modelStructure.program;
      if (program == nil) return fail(failure, @"it is no ML Program"), false;
      for (NSString* name in program.functions) {
        if (function[0] != '\0' && ![name isEqualToString:text_of(function)]) continue;
        for (MLModelStructureProgramOperation* operation in program.functions[name]
                 .block.operations) {
          MLComputePlanDeviceUsage* usage =
              [plan computeDeviceUsageForMLProgramOperation:operation];
          MLComputePlanCost* cost = [plan estimatedCostOfMLProgramOperation:operation];
          ImpetusOperation one = {};
          one.function = name.UTF8String;
          one.type = operation.operatorName.UTF8String;
          one.output =
              operation.outputs.count > 0 ? operation.outputs.firstObject.name.UTF8String : "";
          one.device = usage != nil ? device_name(usage.preferredComputeDevice) : "";
          one.cost = cost != nil ? cost.weight : -1;
          for (id<MLComputeDeviceProtocol> device in usage.supportedComputeDevices) {
            if (strcmp(device_name(device), "ane") == 0) one.on_engine = 1;
          }
          visit(context, &one);
        }
      }
      return true;
    });
  }
  return fail(failure, @"the compute plan needs macOS 14.4"), 0;
}

void free_text(char* text) {
  free(text);
}

constexpr ImpetusCoreml kCoreml = {environment, macos_major, devices, compile,   load,     release,
                                   ports,       view,        predict, placement, free_text};

}  // namespace

extern "C" const ImpetusCoreml* impetus_coreml(void) {
  return &kCoreml;
}
