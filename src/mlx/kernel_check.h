// How kernels of our own are held to MLX's operations where a model is loaded. Includes MLX: only
// the sources of this folder include this.
#pragma once

#include <cmath>
#include <functional>
#include <random>
#include <string>

#include "mlx/wall.h"

namespace impetus::mlx_backend {

// Random values where the device computes.
mx::array random_rows(std::mt19937& random, const mx::Shape& shape, mx::Dtype type);

// The largest difference relative to the largest value; NaN where there is one.
double apart(const mx::array& made, const mx::array& wanted);

// The greater of two errors; NaN is the greatest.
inline double worse(double one, double other) {
  return std::isnan(one) || other <= one ? one : other;
}

// Whether the error that `run` finds is at most `limit`. Where it is not, or `run` throws, a
// warning that begins with `family` says that `what` is not used. Throws where the device itself no
// longer answers.
bool within(const std::string& family, const char* what, double limit,
            const std::function<double()>& run, const char* beside = "MLX's operations");

}  // namespace impetus::mlx_backend
