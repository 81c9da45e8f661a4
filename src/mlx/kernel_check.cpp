#include "mlx/kernel_check.h"

#include "base/log.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {

mx::array random_rows(std::mt19937& random, const mx::Shape& shape, mx::Dtype type) {
  std::normal_distribution<float> normal;
  size_t count = 1;
  for (const auto extent : shape) count *= static_cast<size_t>(extent);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return settle(mx::astype(mx::array(values.begin(), shape, mx::float32), type), false);
}

double apart(const mx::array& made, const mx::array& wanted) {
  const mx::array a = mx::astype(made, mx::float32), b = mx::astype(wanted, mx::float32);
  mx::array ratio = mx::divide(mx::max(mx::abs(mx::subtract(a, b))), mx::max(mx::abs(b)));
  return static_cast<double>(ratio.item<float>());
}

bool within(const std::string& family, const char* what, double limit,
            const std::function<double()>& run, const char* beside) {
  try {
    const double error = run();
    // NaN is none of the small ones.
    if (error <= limit) return true;
    log::warn("{}: {}: {:.2g} off {}, more than {:.2g}: not used", family, what, error, beside,
              limit);
  } catch (const std::exception& failure) {
    log::warn("{}: {}: not used, for it does not run here: {}", family, what, failure.what());
    // A kernel that fails on the device may have taken it along.
    mx::array probe = mx::add(mx::array(1.0f), mx::array(1.0f));
    probe.eval();
  }
  return false;
}

}  // namespace impetus::mlx_backend
