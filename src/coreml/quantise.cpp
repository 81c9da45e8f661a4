#include "coreml/quantise.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

constexpr uint16_t kOneF16 = 0x3c00;

// The smallest positive fp16 that is at least `value`. REQUIRES 0 < value <= 65504.
uint16_t f16_at_least(float value) {
  uint16_t bits = f32_to_f16(value);
  if (f16_to_f32(bits) < value) ++bits;  // positive ones are ordered as their bits are
  return bits;
}

// Bits in an order in which their values ascend: negative ones come first, reversed.
uint16_t ordered(uint16_t bits) {
  if (bits == 0x8000) bits = 0;  // -0
  return static_cast<uint16_t>(bits & 0x8000 ? ~bits : bits | 0x8000);
}
uint16_t from_ordered(uint16_t key) {
  return static_cast<uint16_t>(key & 0x8000 ? key & 0x7fff : ~key);
}

// A group's distinct fp16 values, ascending, how often each occurs, and its ordered bits.
struct Histogram {
  std::vector<double> values, counts;
  std::vector<uint16_t> keys;
};

Histogram histogram_of(std::span<const uint16_t> group) {
  std::vector<uint16_t> keys(group.begin(), group.end());
  Histogram made;
  const auto add = [&](uint16_t key, double count) {
    made.values.push_back(static_cast<double>(f16_to_f32(from_ordered(key))));
    made.counts.push_back(count);
    made.keys.push_back(key);
  };
  if (keys.size() > size_t{1} << 16) {
    std::vector<uint32_t> bins(size_t{1} << 16);
    for (const uint16_t key : keys) ++bins[key];
    for (size_t key = 0; key < bins.size(); ++key) {
      if (bins[key] != 0) add(static_cast<uint16_t>(key), bins[key]);
    }
    return made;
  }
  std::ranges::sort(keys);
  for (size_t i = 0, end = 0; i < keys.size(); i = end) {
    end = i;
    while (end < keys.size() && keys[end] == keys[i]) ++end;
    add(keys[i], static_cast<double>(end - i));
  }
  return made;
}

// `wanted` seeds, ascending. Between two neighbours of the sorted values lie a gap g and a mass m,
// so a density of m / g; the gap holds a share g * (m / g)^(3/8) of the seeds.
std::vector<double> seeds_of(const Histogram& histogram, size_t wanted) {
  const auto& values = histogram.values;
  const auto& counts = histogram.counts;
  std::vector<double> shares(values.size(), 0);  // up to each value
  for (size_t i = 1; i < values.size(); ++i) {
    const double gap = values[i] - values[i - 1];
    const double mass = (counts[i] + counts[i - 1]) / 2;
    const double share =
        std::sqrt(std::sqrt(std::sqrt(gap * gap * gap * gap * gap * mass * mass * mass)));
    shares[i] = shares[i - 1] + share;
  }
  std::vector<double> seeds(wanted);
  size_t at = 1;
  for (size_t k = 0; k < wanted; ++k) {
    const double place =
        shares.back() * (static_cast<double>(k) + 0.5) / static_cast<double>(wanted);
    while (at + 1 < values.size() && shares[at] < place) ++at;
    const double along = (place - shares[at - 1]) / (shares[at] - shares[at - 1]);
    seeds[k] = values[at - 1] + along * (values[at] - values[at - 1]);
  }
  return seeds;
}

// Moves the centres to the means of what is nearest to them until the error stands still.
void lloyd(const Histogram& histogram, std::vector<double>& centres) {
  constexpr int kRoundsMax = 200;
  constexpr double kStandsStill = 1e-6;  // relative change of the squared error
  const auto& values = histogram.values;
  const auto& counts = histogram.counts;
  double before = -1;
  for (int round = 0; round < kRoundsMax; ++round) {
    double squared = 0;
    size_t i = 0;
    for (size_t k = 0; k < centres.size(); ++k) {
      const bool last = k + 1 == centres.size();
      const double border = last ? 0 : (centres[k] + centres[k + 1]) / 2;
      double mass = 0, sum = 0;
      const size_t first = i;
      for (; i < values.size() && (last || values[i] <= border); ++i) {
        mass += counts[i];
        sum += counts[i] * values[i];
      }
      // An entry that nothing is nearest to stays where it is. The next border is of centres past
      // k.
      const double mean = mass > 0 ? sum / mass : centres[k];
      for (size_t j = first; j < i; ++j) {
        squared += counts[j] * (values[j] - mean) * (values[j] - mean);
      }
      centres[k] = mean;
    }
    if (before >= 0 && before - squared <= kStandsStill * before) return;
    before = squared;
  }
}

// fp16 entries, ascending, the last repeated up to `entries`.
std::vector<uint16_t> lut_of(const Histogram& histogram, size_t entries) {
  std::vector<double> centres;
  if (histogram.values.size() <= entries) {
    centres = histogram.values;
  } else {
    centres = seeds_of(histogram, entries);
    lloyd(histogram, centres);
  }
  std::vector<uint16_t> lut;
  lut.reserve(entries);
  for (const double centre : centres) lut.push_back(f32_to_f16(static_cast<float>(centre)));
  lut.erase(std::ranges::unique(lut).begin(), lut.end());
  lut.resize(entries, lut.back());
  return lut;
}

}  // namespace

Int8Rows quantise_int8(std::span<const float> weights, int64_t rows, int64_t columns) {
  assert(static_cast<int64_t>(weights.size()) == rows * columns);
  Int8Rows made;
  made.values.resize(weights.size());
  made.scales.resize(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const auto row =
        weights.subspan(static_cast<size_t>(r * columns), static_cast<size_t>(columns));
    float largest = 0;
    for (const float weight : row) largest = std::max(largest, std::fabs(weight));
    uint16_t scale = kOneF16;
    if (largest > 0) scale = f16_at_least(largest / 127);
    made.scales[static_cast<size_t>(r)] = scale;
    const float step = f16_to_f32(scale);
    for (size_t i = 0; i < row.size(); ++i) {
      const float rounded = std::nearbyint(row[i] / step);
      made.values[static_cast<size_t>(r * columns) + i] =
          static_cast<int8_t>(std::clamp(rounded, -127.0f, 127.0f));
    }
  }
  return made;
}

Palette palettise(std::span<const float> weights, int64_t rows, int64_t columns, int bits,
                  int64_t groups) {
  assert(static_cast<int64_t>(weights.size()) == rows * columns);
  assert(bits >= 1 && bits <= 8 && groups >= 1 && rows % groups == 0);
  Palette made;
  made.bits = bits;
  made.groups = groups;
  std::vector<uint16_t> halves(weights.size());
  std::ranges::transform(weights, halves.begin(),
                         [](float weight) { return ordered(f32_to_f16(weight)); });
  made.indices.resize(halves.size());
  if (halves.empty()) return made;

  const size_t entries = size_t{1} << bits;
  const size_t group_size = halves.size() / static_cast<size_t>(groups);
  std::vector<uint8_t> nearest(size_t{1} << 16);  // entry of a key; of this group's keys alone
  for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
    const auto group = std::span(halves).subspan(g * group_size, group_size);
    const Histogram histogram = histogram_of(group);
    const std::vector<uint16_t> lut = lut_of(histogram, entries);
    // Of equally near entries the lower one; values ascend, so the entry does too.
    size_t entry = 0;
    for (size_t i = 0; i < histogram.values.size(); ++i) {
      const double value = histogram.values[i];
      const auto distance = [&](size_t k) {
        return std::fabs(value - static_cast<double>(f16_to_f32(lut[k])));
      };
      while (entry + 1 < entries && distance(entry + 1) < distance(entry)) ++entry;
      nearest[histogram.keys[i]] = static_cast<uint8_t>(entry);
    }
    for (size_t i = 0; i < group.size(); ++i) made.indices[g * group_size + i] = nearest[group[i]];
    made.lut.insert(made.lut.end(), lut.begin(), lut.end());
  }
  return made;
}

std::vector<float> dequantise(const Int8Rows& rows) {
  std::vector<float> values(rows.values.size());
  const size_t columns = rows.scales.empty() ? 0 : values.size() / rows.scales.size();
  for (size_t i = 0; i < values.size(); ++i) {
    const float scale = f16_to_f32(rows.scales[i / columns]);
    values[i] = f16_to_f32(f32_to_f16(scale * static_cast<float>(rows.values[i])));
  }
  return values;
}

std::vector<float> dequantise(const Palette& palette) {
  std::vector<float> values(palette.indices.size());
  const size_t group_size = values.size() / static_cast<size_t>(palette.groups);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t group = i / group_size;
    values[i] =
        f16_to_f32(palette.lut[(group << palette.bits) + static_cast<size_t>(palette.indices[i])]);
  }
  return values;
}

double squared_error(std::span<const float> a, std::span<const float> b) {
  assert(a.size() == b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

std::vector<std::byte> packed(std::span<const uint8_t> indices, int bits) {
  assert(bits >= 1 && bits <= 8);
  std::vector<std::byte> bytes((indices.size() * static_cast<size_t>(bits) + 7) / 8);
  size_t bit = 0;
  for (const uint8_t index : indices) {
    const unsigned placed = static_cast<unsigned>(index) << (bit % 8);
    bytes[bit / 8] |= static_cast<std::byte>(placed & 0xff);
    if (placed > 0xff) bytes[bit / 8 + 1] |= static_cast<std::byte>(placed >> 8);
    bit += static_cast<size_t>(bits);
  }
  return bytes;
}

int64_t groups_of(int64_t rows, int64_t rows_min) {
  for (int64_t size = rows_min; size < rows; ++size) {
    if (rows % size == 0) return rows / size;
  }
  return 1;
}

}  // namespace impetus::coreml
