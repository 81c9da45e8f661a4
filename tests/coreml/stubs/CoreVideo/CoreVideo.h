// Of Core Video, what apple_bridge.mm uses.
#pragma once
#import <Foundation/Foundation.h>

typedef const struct __CFAllocator* CFAllocatorRef;
typedef const struct __CFDictionary* CFDictionaryRef;
typedef const struct __CFString* CFStringRef;
typedef struct __CVBuffer* CVPixelBufferRef;
typedef int32_t CVReturn;
typedef uint32_t OSType;
enum { kCVReturnSuccess = 0 };
enum { kCVPixelFormatType_OneComponent16Half = 'L00h' };
extern "C" {
extern const CFAllocatorRef kCFAllocatorDefault;
extern const CFStringRef kCVPixelBufferIOSurfacePropertiesKey;
CVReturn CVPixelBufferCreate(CFAllocatorRef allocator, size_t width, size_t height, OSType format,
                             CFDictionaryRef attributes, CVPixelBufferRef* made);
CVReturn CVPixelBufferLockBaseAddress(CVPixelBufferRef buffer, uint64_t flags);
CVReturn CVPixelBufferUnlockBaseAddress(CVPixelBufferRef buffer, uint64_t flags);
CVPixelBufferRef CVPixelBufferRetain(CVPixelBufferRef buffer);
void CVPixelBufferRelease(CVPixelBufferRef buffer);
}
