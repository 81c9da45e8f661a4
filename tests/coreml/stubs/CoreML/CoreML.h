// Of Core ML, what apple_bridge.mm uses, with the macOS version that brought each part.
#pragma once
#import <CoreVideo/CoreVideo.h>
#import <Foundation/Foundation.h>

typedef enum MLComputeUnits : NSInteger {
  MLComputeUnitsCPUOnly = 0,
  MLComputeUnitsCPUAndGPU = 1,
  MLComputeUnitsAll = 2,
  MLComputeUnitsCPUAndNeuralEngine API_AVAILABLE(macos(13.0)) = 3,
} MLComputeUnits;

typedef enum MLMultiArrayDataType : NSInteger {
  MLMultiArrayDataTypeDouble = 0x10000 | 64,
  MLMultiArrayDataTypeFloat32 = 0x10000 | 32,
  MLMultiArrayDataTypeFloat16 API_AVAILABLE(macos(12.0)) = 0x10000 | 16,
  MLMultiArrayDataTypeInt32 = 0x20000 | 32,
} MLMultiArrayDataType;

@interface MLMultiArray : NSObject
@property(readonly) MLMultiArrayDataType dataType;
@property(readonly) NSArray<NSNumber*>* shape;
@property(readonly) NSArray<NSNumber*>* strides;
@property(readonly) CVPixelBufferRef pixelBuffer API_AVAILABLE(macos(12.0));
- (instancetype)initWithShape:(NSArray<NSNumber*>*)shape
                              dataType:(MLMultiArrayDataType)type
                                 error:(NSError**)error;
- (instancetype)initWithPixelBuffer:(CVPixelBufferRef)buffer
                              shape:(NSArray<NSNumber*>*)shape API_AVAILABLE(macos(12.0));
- (void)getMutableBytesWithHandler:
    (void(__attribute__((noescape)) ^)(void* bytes, NSInteger size,
                                       NSArray<NSNumber*>* strides))handler
    API_AVAILABLE(macos(12.3));
@end

@interface MLMultiArrayConstraint : NSObject
@property(readonly) NSArray<NSNumber*>* shape;
@property(readonly) MLMultiArrayDataType dataType;
@end
@interface MLFeatureDescription : NSObject
@property(readonly) NSString* name;
@property(readonly) MLMultiArrayConstraint* multiArrayConstraint;
@end
@interface MLModelDescription : NSObject
@property(readonly) NSDictionary<NSString*, MLFeatureDescription*>* inputDescriptionsByName;
@property(readonly) NSDictionary<NSString*, MLFeatureDescription*>* outputDescriptionsByName;
@end
@interface MLFeatureValue : NSObject
@property(readonly) MLMultiArray* multiArrayValue;
+ (instancetype)featureValueWithMultiArray:(MLMultiArray*)array;
@end
@protocol MLFeatureProvider <NSObject>
- (MLFeatureValue*)featureValueForName:(NSString*)name;
@end
@interface MLDictionaryFeatureProvider : NSObject <MLFeatureProvider>
- (instancetype)initWithDictionary:(NSDictionary<NSString*, id>*)values
                                      error:(NSError**)error;
@end
@interface MLPredictionOptions : NSObject
@property(copy) NSDictionary<NSString*, id>* outputBackings API_AVAILABLE(macos(11.0));
@end
@interface MLModelConfiguration : NSObject
@property MLComputeUnits computeUnits;
@property(copy) NSString* functionName API_AVAILABLE(macos(15.0));
@end
@interface MLModel : NSObject
@property(readonly) MLModelDescription* modelDescription;
+ (instancetype)modelWithContentsOfURL:(NSURL*)url
                                  configuration:(MLModelConfiguration*)configuration
                                          error:(NSError**)error;
+ (void)compileModelAtURL:(NSURL*)url
        completionHandler:(void (^)(NSURL* result, NSError* error))handler
    API_AVAILABLE(macos(13.0));
- (id<MLFeatureProvider>)predictionFromFeatures:(id<MLFeatureProvider>)features
                                                 options:(MLPredictionOptions*)options
                                                   error:(NSError**)error;
@end

API_AVAILABLE(macos(14.0)) @protocol MLComputeDeviceProtocol <NSObject>
@end
API_AVAILABLE(macos(14.0)) @interface MLCPUComputeDevice : NSObject <MLComputeDeviceProtocol>
@end
API_AVAILABLE(macos(14.0)) @interface MLGPUComputeDevice : NSObject <MLComputeDeviceProtocol>
@end
API_AVAILABLE(macos(14.0))
@interface MLNeuralEngineComputeDevice : NSObject <MLComputeDeviceProtocol>
@property(readonly) NSInteger totalCoreCount;
@end
extern "C" NSArray<id<MLComputeDeviceProtocol>>* MLAllComputeDevices(void)
    API_AVAILABLE(macos(14.0));

API_AVAILABLE(macos(14.4)) @interface MLModelStructureProgramNamedValueType : NSObject
@property(readonly) NSString* name;
@end
API_AVAILABLE(macos(14.4)) @interface MLModelStructureProgramOperation : NSObject
@property(readonly) NSString* operatorName;
@property(readonly) NSArray<MLModelStructureProgramNamedValueType*>* outputs;
@end
API_AVAILABLE(macos(14.4)) @interface MLModelStructureProgramBlock : NSObject
@property(readonly) NSArray<MLModelStructureProgramOperation*>* operations;
@end
API_AVAILABLE(macos(14.4)) @interface MLModelStructureProgramFunction : NSObject
@property(readonly) MLModelStructureProgramBlock* block;
@end
API_AVAILABLE(macos(14.4)) @interface MLModelStructureProgram : NSObject
@property(readonly) NSDictionary<NSString*, MLModelStructureProgramFunction*>* functions;
@end
API_AVAILABLE(macos(14.4)) @interface MLModelStructure : NSObject
@property(readonly) MLModelStructureProgram* program;
@end
API_AVAILABLE(macos(14.4)) @interface MLComputePlanDeviceUsage : NSObject
@property(readonly) NSArray<id<MLComputeDeviceProtocol>>* supportedComputeDevices;
@property(readonly) id<MLComputeDeviceProtocol> preferredComputeDevice;
@end
API_AVAILABLE(macos(14.4)) @interface MLComputePlanCost : NSObject
@property(readonly) double weight;
@end
API_AVAILABLE(macos(14.4)) @interface MLComputePlan : NSObject
@property(readonly) MLModelStructure* modelStructure;
+ (void)loadContentsOfURL:(NSURL*)url
            configuration:(MLModelConfiguration*)configuration
        completionHandler:(void (^)(MLComputePlan* plan,
                                    NSError* error))handler;
- (MLComputePlanDeviceUsage*)computeDeviceUsageForMLProgramOperation:
    (MLModelStructureProgramOperation*)operation;
- (MLComputePlanCost*)estimatedCostOfMLProgramOperation:
    (MLModelStructureProgramOperation*)operation;
@end
