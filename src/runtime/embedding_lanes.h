// One encoder model on a processor, or on several that take texts of different lengths: each text
// goes to the first that is long enough for it, on that one's own loop, and the answer names all
// that ran a part. All methods but add() are thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/runner.h"

namespace impetus {

class EmbeddingLanes {
 public:
  // In the order of their preference, before the first request.
  void add(std::unique_ptr<EmbeddingLane> lane);

  // As EmbeddingLane::submit; context_length for a text that is too long for all. `done` is called
  // once, on the thread of the lane that ends last. What is returned cancels.
  Result<std::function<void()>> submit(EmbeddingLane::Request request, EmbeddingLane::Done done);
  void close();
  EmbeddingLane::Counts counts() const;  // of all
  bool empty() const { return lanes_.empty(); }
  size_t size() const { return lanes_.size(); }
  EmbeddingLane& lane(size_t index) { return *lanes_[index]; }
  bool waits() const;  // one of them does, for another processor

 private:
  std::vector<std::unique_ptr<EmbeddingLane>> lanes_;
};

}  // namespace impetus
