#include "mlx/dequantised.h"

#include <algorithm>
#include <limits>

#include "base/log.h"
#include "base/timing.h"
#include "mlx/kernel_check.h"

namespace impetus::mlx_backend {

DequantisedChoice dequantised_choice(const Matrix& matrix, mx::Dtype type, int64_t rows_max,
                                     const decltype(MlxOptions::product_seconds)& seconds) {
  constexpr double kWorth = 0.9;  // of the time: less may be chance
  constexpr int kTimes = 5;
  const int columns = matrix.scales->shape(1) * matrix.group;
  const auto fits = [&](int rows) { return rows <= rows_max; };
  const auto most = std::ranges::find_if(kDequantisedRows, fits);
  DequantisedChoice choice;
  if (most == kDequantisedRows.end()) return choice;
  std::mt19937 random(11);
  const mx::array all = random_rows(random, {*most, columns}, type);
  for (auto rows = most; rows != kDequantisedRows.end(); ++rows) {
    mx::array x = mx::contiguous(mx::slice(all, {0, 0}, {*rows, columns}));
    x.eval();
    // This finds the kernels, too, of both.
    choice.error = worse(choice.error, apart(matrix.apply_dequantised(x), matrix.apply(x)));
    // By turns, so that a slow spell of the host meets both; of each the least, as chance only
    // adds.
    double dequantised = std::numeric_limits<double>::infinity(), codes = dequantised;
    for (int i = 0; i < kTimes; ++i) {
      dequantised =
          std::min(dequantised, seconds(*rows, true, [&] { matrix.apply_dequantised(x).eval(); }));
      codes = std::min(codes, seconds(*rows, false, [&] { matrix.apply(x).eval(); }));
    }
    log::debug("a product of {} rows: {:.1f} us dequantised, {:.1f} us of codes", *rows,
               1e6 * dequantised, 1e6 * codes);
    if (!(dequantised <= kWorth * codes)) break;
    choice.from = *rows;
  }
  return choice;
}

double product_seconds(int64_t, bool, const std::function<void()>& product) {
  const auto start = std::chrono::steady_clock::now();
  product();
  return seconds_since(start);
}

}  // namespace impetus::mlx_backend
