#include "mlx/dequantised.h"

#include "base/timing.h"
#include "mlx/kernel_check.h"

namespace impetus::mlx_backend {

DequantisedChoice dequantised_choice(const Matrix& matrix, mx::Dtype type, int64_t rows_max,
                                     const decltype(MlxOptions::product_seconds)& seconds) {
  constexpr double kWorth = 0.9;  // of the time: less may be chance
  const int columns = matrix.scales->shape(1) * matrix.group;
  std::mt19937 random(11);
  DequantisedChoice choice;
  for (const int rows : {512, 384, 256, 128}) {
    if (rows > rows_max) continue;
    const mx::array x = random_rows(random, {rows, columns}, type);
    choice.error = worse(choice.error, apart(matrix.apply_dequantised(x), matrix.apply(x)));
    const double dequantised = seconds(rows, true, [&] { matrix.apply_dequantised(x).eval(); });
    const double codes = seconds(rows, false, [&] { matrix.apply(x).eval(); });
    if (!(dequantised <= kWorth * codes)) break;
    choice.from = rows;
  }
  return choice;
}

double product_seconds(int64_t, bool, const std::function<void()>& product) {
  constexpr int kTimes = 5;
  std::vector<double> took;
  product();  // the first finds its kernels
  for (int i = 0; i < kTimes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    product();
    took.push_back(seconds_since(start));
  }
  return median(took);
}

}  // namespace impetus::mlx_backend
