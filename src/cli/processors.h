// The processors that this program knows by name, and those of them that a user asked for.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/executor.h"
#include "coreml/coreml_backend.h"
#include "runtime/placement.h"

namespace impetus::cli {

struct Processors {
  std::vector<std::unique_ptr<Backend>> backends;
  Placement placement;
};

// For --device's items; none: the best there is; "all" alone: every one, for a plan to order. A
// name that the program knows and this machine lacks is absent in the placement. invalid_argument,
// listing what there is, for any other name.
//
// coreml-emulated runs embeddings alone: named for everything, the other phases pass it over, and
// where nothing else is named run on the best. It is not among "all". mlx is MLX's GPU where it
// drives one, else its CPU; with a GPU it is among the processors even where none is named.
Result<Processors> find_processors(std::span<const std::string> devices, int threads,
                                   const coreml::CoremlOptions& coreml = {});

// The names of all that this machine has, best first, without the reference kernels (they are
// there to be compared with, and take very long).
std::vector<std::string> every_processor();

// Why the build has no MLX, and how to get it; empty where it has it.
std::string mlx_absent();

}  // namespace impetus::cli
