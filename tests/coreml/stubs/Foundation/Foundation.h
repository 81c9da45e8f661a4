// Of Foundation, what apple_bridge.mm uses, written by hand from Apple's public documentation: so
// that its syntax, its types and the availability of what it calls are checked without a Mac.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define API_AVAILABLE(platform_version) __attribute__((availability(platform_version)))
#define macos(version) macos, introduced = version

typedef long NSInteger;
typedef unsigned long NSUInteger;
typedef signed char BOOL;
#define nil nullptr

@class NSString, NSError;

__attribute__((objc_root_class)) @interface NSObject
+ (instancetype)alloc;
- (instancetype)init;
+ (Class)class;
- (BOOL)isKindOfClass:(Class)kind;
- (void)dealloc;
@end
@protocol NSObject
- (BOOL)isKindOfClass:(Class)kind;
@end

@interface NSString : NSObject
@property(readonly) const char* UTF8String;
+ (instancetype)stringWithUTF8String:(const char*)bytes;
+ (instancetype)stringWithFormat:(NSString*)format, ... __attribute__((format(__NSString__, 1, 2)));
- (NSString*)stringByAppendingFormat:(NSString*)format, ...
    __attribute__((format(__NSString__, 1, 2)));
- (BOOL)isEqualToString:(NSString*)other;
@end

// What @"..." is made of.
@interface NSSimpleCString : NSString
@end
@interface NSConstantString : NSSimpleCString
@end
extern void* _NSConstantStringClassReference;

@interface NSNumber : NSObject
@property(readonly) long long longLongValue;
@property(readonly) NSUInteger unsignedIntegerValue;
@end

typedef struct {
  unsigned long state;
  __unsafe_unretained id* itemsPtr;
  unsigned long* mutationsPtr;
  unsigned long extra[5];
} NSFastEnumerationState;

@interface NSArray<__covariant T> : NSObject
@property(readonly) NSUInteger count;
@property(readonly) T firstObject;
@property(readonly) T lastObject;
- (T)objectAtIndexedSubscript:(NSUInteger)index;
- (BOOL)isEqualToArray:(NSArray<T>*)other;
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState*)state
                                  objects:(__unsafe_unretained id*)buffer
                                    count:(NSUInteger)count;
@end
@interface NSMutableArray<T> : NSArray <T>
+ (instancetype)array;
- (void)addObject:(T)object;
@end

@protocol NSCopying
@end

@interface NSDictionary<__covariant K, __covariant V> : NSObject
+ (instancetype)dictionaryWithObjects:(const id*)values forKeys:(const id*)keys count:(NSUInteger)n;
- (V)objectForKeyedSubscript:(K)key;
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState*)state
                                  objects:(__unsafe_unretained id*)buffer
                                    count:(NSUInteger)count;
@end
@interface NSMutableDictionary<K, V> : NSDictionary <K, V>
+ (instancetype)dictionary;
- (void)setObject:(V)value forKeyedSubscript:(K)key;
@end

extern NSString* const NSUnderlyingErrorKey;
@interface NSError : NSObject
@property(readonly) NSString* localizedDescription;
@property(readonly) NSDictionary<NSString*, id>* userInfo;
@end

@interface NSException : NSObject
@property(readonly) NSString* name;
@property(readonly) NSString* reason;
@end

@interface NSURL : NSObject
+ (NSURL*)fileURLWithPath:(NSString*)path;
@end

@interface NSFileManager : NSObject
+ (NSFileManager*)defaultManager;
- (BOOL)moveItemAtURL:(NSURL*)from toURL:(NSURL*)to error:(NSError**)error;
- (BOOL)removeItemAtURL:(NSURL*)url error:(NSError**)error;
@end

typedef struct {
  NSInteger majorVersion, minorVersion, patchVersion;
} NSOperatingSystemVersion;
@interface NSProcessInfo : NSObject
+ (NSProcessInfo*)processInfo;
@property(readonly) NSString* operatingSystemVersionString;
@property(readonly) NSOperatingSystemVersion operatingSystemVersion;
@end

typedef NSObject* dispatch_semaphore_t;
#define DISPATCH_TIME_FOREVER (~0ull)
extern "C" dispatch_semaphore_t dispatch_semaphore_create(long value);
extern "C" long dispatch_semaphore_wait(dispatch_semaphore_t semaphore, uint64_t timeout);
extern "C" long dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
