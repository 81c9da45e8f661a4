// .mlpackage folders: Manifest.json, Data/AUTHOR/model.mlmodel (protobuf), Data/AUTHOR/weights/
// weight.bin. Layout and limits: docs/neural-engine.md, "The package".
//
// Reading: every byte is hostile. Counts, offsets, nesting and sizes are bounded before they are
// believed; the first contradiction is one Error (corrupt; unsupported for what is well-formed and
// outside this build) naming file and place. Whatever parses is still only syntax: validate() of
// operations.h judges the program.
#pragma once

#include <filesystem>
#include <memory>
#include <span>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::mil {

struct Package {
  Model model;  // constants borrow from the mapped weight file, which their owner keeps alive
  int64_t model_bytes = 0, weight_bytes = 0;  // of model.mlmodel and weight.bin
};

// A folder; a bare .mlmodel file too, where it needs no weight file.
Result<Package> open_package(const std::filesystem::path& path);

// model.mlmodel and weight.bin as bytes that the caller keeps alive through `owner` (fuzzing,
// tests).
Result<Package> parse_package(std::span<const std::byte> model, std::span<const std::byte> weights,
                              std::shared_ptr<const void> owner = {});

// The same model gives the same bytes, on every machine. Constants of ten elements or more go to
// weight.bin, equal ones once. Written beside and renamed into place: `path` holds the whole
// package or what was there before. REQUIRES a folder to be able to be made there; an existing
// package is replaced, anything else refused.
Result<void> write_package(const std::filesystem::path& path, const Model& model);

// The two files that write_package writes.
struct PackageBytes {
  std::vector<std::byte> model, weights;
};
Result<PackageBytes> serialize(const Model& model);

}  // namespace impetus::mil
