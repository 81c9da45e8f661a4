// Core ML in C: all that is asked of Apple's framework, so that the file that calls it needs
// nothing of C++'s library and all else runs, and is tested, anywhere (apple_model.cpp, over a fake
// of this table). Implemented by apple_bridge.mm, on macOS.
//
// Texts that come back in `failure` are freed by free_text; functions that may fail return null or
// 0 then. No exception leaves. A model is one thread's at a time.
#ifndef IMPETUS_COREML_APPLE_BRIDGE_H
#define IMPETUS_COREML_APPLE_BRIDGE_H

#include <stdint.h>

enum { kImpetusRankMax = 8 };

// MIL's numbers (DataType of MIL.proto); 0: another one.
enum { kImpetusFloat16 = 10, kImpetusFloat32 = 11, kImpetusInt32 = 23 };

enum { kImpetusCpuAndNeuralEngine, kImpetusAll, kImpetusCpuAndGpu, kImpetusCpuOnly };

struct ImpetusModel;

struct ImpetusPort {
  const char* name;  // the model's
  int type;
  int rank;
  int64_t shape[kImpetusRankMax];
};

struct ImpetusView {
  void* data;
  int64_t strides[kImpetusRankMax];  // in elements
};

// One operation, as Core ML plans it. Texts last for the call.
struct ImpetusOperation {
  const char* function;
  const char* type;    // "ios16.conv"
  const char* output;  // its first result
  const char* device;  // "ane", "gpu", "cpu"; empty: nothing runs it (constants)
  double cost;         // share of the whole; negative: not known
  int on_engine;       // whether the Neural Engine could
};

struct ImpetusCoreml {
  // "Version 15.3 (Build 24D60), Apple M3"; of macOS, 15.
  void (*environment)(void* context, void (*tell)(void* context, const char* text));
  int (*macos_major)(void);
  // Devices with what is known of them: "ane, 16 cores". Nothing before macOS 14.
  void (*devices)(void* context, void (*tell)(void* context, const char* text));
  // Compiles a package into the folder `destination`, which does not exist yet.
  int (*compile)(const char* package, const char* destination, char** failure);
  // `function` empty: the only one. Named ones need macOS 15.
  struct ImpetusModel* (*load)(const char* compiled, const char* function, int units,
                               char** failure);
  void (*release)(struct ImpetusModel* model);
  int (*ports)(const struct ImpetusModel* model, int outputs, struct ImpetusPort* ports, int max);
  // Locked for the host until the next prediction.
  int (*view)(struct ImpetusModel* model, int output, const char* name, struct ImpetusView* view,
              char** failure);
  int (*predict)(struct ImpetusModel* model, char** failure);
  // Calls `visit` for every operation; needs macOS 14.4.
  int (*placement)(const char* compiled, const char* function, int units, void* context,
                   void (*visit)(void* context, const struct ImpetusOperation* operation),
                   char** failure);
  void (*free_text)(char* text);
};

#ifdef __cplusplus
extern "C"
#endif
    const struct ImpetusCoreml*
    impetus_coreml(void);

#endif
