// Programs have fixed shapes, texts any length: which program a text runs on, and in which order a
// batch goes. Pure; immutable: any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace impetus::coreml {

class Buckets {
 public:
  // REQUIRES: not empty, ascending, each >= 1.
  explicit Buckets(std::vector<int64_t> shapes) : shapes_(std::move(shapes)) {}

  std::span<const int64_t> shapes() const { return shapes_; }
  int64_t largest() const { return shapes_.back(); }

  // The smallest shape that holds `tokens`; nothing where none does.
  std::optional<size_t> fit(int64_t tokens) const;

  struct Turn {
    size_t text = 0, bucket = 0;
  };
  // A turn for each text of a ragged batch (offsets as EncoderBatch has them). A program takes one
  // text at a time, for what stands beside a text in one program would be attended to; texts of one
  // program follow each other, since a change of programs costs the engine a reload. Nothing where
  // a text fits no shape.
  std::optional<std::vector<Turn>> order(std::span<const int32_t> offsets) const;

 private:
  std::vector<int64_t> shapes_;
};

}  // namespace impetus::coreml
