// Weights as MLX runs them: matrices dense in the file's type or in MLX's affine quantisation.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mlx/wall.h"

namespace impetus::mlx_backend {

// A matrix [out, in] and its bias. Dense: `weight` [out, in]. Quantised: `weight` u32 [out, in *
// bits / 32], `scales` and `biases` [out, in / group], w = scale * code + bias.
struct Matrix {
  mx::array weight = mx::array(0.0f);
  std::optional<mx::array> scales, biases;
  std::optional<mx::array> bias;        // [out]
  std::optional<mx::array> transposed;  // dense: `weight` as products take it, or not yet
  int bits = 0, group = 0;              // 0: dense
  std::string mode = "affine";
  int64_t dequantised_from = 0;  // rows from which products take it dequantised; 0: never

  // x [..., in] -> [..., out], in x's type.
  mx::array apply(const mx::array& x) const;
  // The same by way of all its values, dequantised to x's type: for so many rows that the time for
  // it comes back. REQUIRES dequantisable(x.dtype()).
  mx::array apply_dequantised(const mx::array& x) const;
  bool dequantisable(mx::Dtype type) const {
    return bits != 0 && (mode != "affine" || scales->dtype() == type);
  }
  int64_t dequantised_bytes(mx::Dtype type) const;
  // The rows of these ids, i32 [n] -> [n, in], in `type`.
  mx::array rows(const mx::array& ids, mx::Dtype type) const;
  // Makes `transposed`: a view is an operation, too.
  void transpose();
};

// A bias [out] before each of `rows` rows: a view like MLX's that is there at once, no operation.
// REQUIRES `bias` evaluated.
mx::array over_rows(const mx::array& bias, int rows);

// Matrices of one input as one, their outputs one after another, so that a step multiplies once.
// Nullopt where they differ in more than their outputs.
std::optional<Matrix> joined(const std::vector<Matrix>& parts);

// Products of several matrices, or of the one that they were joined to: each [n, width].
// `multiply(matrix, x)` as Matrix::apply.
std::vector<mx::array> products(
    const std::vector<Matrix>& matrices, const mx::array& x, std::span<const int64_t> widths,
    const std::function<mx::array(const Matrix&, const mx::array&)>& multiply);

// The type of activations for a model of these matrices: the widest of theirs, or of their scales.
// Where all are GGUF's quantised blocks, f16 on a GPU (as their scales are) and f32 on a CPU, which
// has no faster type; where all are mxfp4, the type of `other`, a norm.
Result<mx::Dtype> activation_type(const std::vector<const NamedTensor*>& matrices,
                                  const NamedTensor& other, bool gpu);

// Makes arrays of a file's tensors. Unquantised tensors of the wanted type are borrowed from the
// mapped file where MLX can (on its CPU; with Metal), else copied once, and the mapped pages let
// go. GGUF's Q8_0 and Q4_0 are repacked, value for value, to affine groups of 32.
//
// REQUIRES: called in MLX's turn; `weights` outlive what is made.
class WeightLoader {
 public:
  WeightLoader(const WeightSet& weights, WeightPrecision precision, mx::Dtype activations, bool cpu)
      : weights_(weights), precision_(precision), activations_(activations), cpu_(cpu) {}

  // Bytes that matrix() will hold, for the ledger; unsupported naming the tensor where it cannot.
  Result<int64_t> bytes(const NamedTensor& tensor) const;
  Result<Matrix> matrix(const Linear& linear);
  // A table whose rows are looked up: as matrix(), whatever its type.
  Result<Matrix> table(const NamedTensor& tensor);
  // A norm's weight or a bias, in the type of activations.
  mx::array vector(const NamedTensor& tensor) const;

  int64_t borrowed_bytes() const { return borrowed_; }

 private:
  DType target(const NamedTensor& tensor, bool table) const;
  Result<Matrix> load(const NamedTensor& tensor, bool table);
  Matrix grouped(const NamedTensor& tensor);
  mx::array stored(std::span<const std::byte> data, size_t file, const mx::Shape& shape,
                   mx::Dtype type);

  const WeightSet& weights_;
  WeightPrecision precision_;
  mx::Dtype activations_;
  bool cpu_;
  int64_t borrowed_ = 0;
  std::vector<std::optional<mx::array>> files_;  // whole files, where they could be borrowed
};

// Elements [offset, offset + bytes) of a file borrowed as u8 [pages, kPageBytes], without a copy.
inline constexpr int64_t kPageBytes = 16384;
mx::array view_of_pages(const mx::array& pages, int64_t offset, const mx::Shape& shape,
                        mx::Dtype type);

// An array over memory of the caller's without a copy, as MLX's CPU build can; nullopt where it
// cannot. `data` must stay, and is only read.
std::optional<mx::array> borrow_on_cpu(const std::byte* data, const mx::Shape& shape,
                                       mx::Dtype type);

// Repacks whole rows of GGUF's blocks. Scales are the file's f16, exactly.
Matrix repack(const TensorView& view, mx::Dtype scales);

// Host values to where the device computes. On CUDA memory that the host wrote is shared pages,
// which every kernel would read across the bus.
mx::array settle(mx::array host, bool cpu);
// Frees what host values stood in before: the next array of the device would be made there.
void drop_staging(bool cpu);

}  // namespace impetus::mlx_backend
