// What the tests of this folder share.
#pragma once

#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <spdlog/sinks/ostream_sink.h>

#include "base/log.h"
#include "mlx/mlx_backend.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

// An array's values, row by row.
inline std::vector<float> floats(const mx::array& array) {
  mx::array wide = mx::contiguous(mx::astype(array, mx::float32));
  wide.eval();
  return {wide.data<float>(), wide.data<float>() + wide.size()};
}

// What is logged while it lives, of every level.
class Logged {
 public:
  Logged() : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(said_, true));
    logger->set_level(spdlog::level::debug);
    spdlog::set_default_logger(std::move(logger));
  }
  ~Logged() { spdlog::set_default_logger(before_); }
  Logged(const Logged&) = delete;
  Logged& operator=(const Logged&) = delete;

  std::string text() const { return said_.str(); }
  int count(std::string_view of) const {
    const std::string all = text();
    int found = 0;
    for (size_t at = all.find(of); at != std::string::npos; at = all.find(of, at + 1)) ++found;
    return found;
  }

 private:
  std::shared_ptr<spdlog::logger> before_;
  std::ostringstream said_;
};

// Greedy tokens of some sequences side by side, one step for all at a time (decoder_test.cpp).
std::vector<std::vector<TokenId>> side_by_side(Executor& executor,
                                               std::vector<std::vector<TokenId>> sequences,
                                               const std::vector<std::vector<BlockId>>& blocks,
                                               int steps);

// The kernel of prompts' attention on the host (prefill_kernel_test.cpp). `way` 0 to 2: one that
// goes wrong in one way.
decltype(MlxOptions::prefill_kernel) host_prefill(int way = -1);

// The kernels of rows on the host (row_kernels_test.cpp). `way` 0 to 9: with one that goes wrong.
decltype(MlxOptions::row_kernels) host_rows(int way = -1);

// The kernel of whole decode steps on the host (decode_step_test.cpp).
decltype(MlxOptions::decode_step) host_step();

// The kernel of whole batches of texts on the host (encode_step_test.cpp).
decltype(MlxOptions::encode_step) host_encode();

// The paths of a GPU with kernels of our own, all on the host (decode_kernels_test.cpp).
// `way` 0 to 3: with kernels that go wrong in one way.
MlxOptions with_host_kernels(int way = -1);

}  // namespace impetus::mlx_backend
