// The slow forward passes, written to be read: plain loops over dequantised weights, sums in
// double, one sequence at a time, no cache. Independent of every processor's code; the shared
// conformance tests hold processors against it.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "architectures/model_spec.h"
#include "base/token_id.h"

namespace impetus::testing {

using Vector = std::vector<double>;
using Matrix = std::vector<Vector>;  // rows

// What a processor of low precision does to the input of a product, and to keys and values.
enum class Rounding { none, f16, bf16, q8 };

inline void round_to(Rounding rounding, Vector& x) {
  const auto each = [&](auto f) {
    for (double& v : x) v = static_cast<double>(f(static_cast<float>(v)));
  };
  if (rounding == Rounding::f16) each([](float v) { return f16_to_f32(f32_to_f16(v)); });
  if (rounding == Rounding::bf16) each([](float v) { return bf16_to_f32(f32_to_bf16(v)); });
  if (rounding != Rounding::q8) return;
  for (size_t b = 0; b < x.size(); b += 32) {
    double peak = 0;
    for (size_t i = b; i < b + 32; ++i) peak = std::max(peak, std::fabs(x[i]));
    if (peak == 0) continue;
    for (size_t i = b; i < b + 32; ++i) x[i] = std::nearbyint(x[i] * 127 / peak) * peak / 127;
  }
}

class ReferenceForward {
 public:
  ReferenceForward(const ModelSpec& spec, Rounding activations = Rounding::none,
                   Rounding kv = Rounding::none)
      : spec_(spec), activations_(activations), kv_(kv) {}

  // Logits of every position.
  Matrix decoder(const DecoderWeights& w, const std::vector<TokenId>& tokens) const {
    Matrix x = rows_of(*w.embedding, tokens);
    const auto frequencies = spec_.rope_frequencies();
    for (const auto& layer : w.layers) {
      Matrix q, k, v;
      for (size_t t = 0; t < x.size(); ++t) {
        const Vector h = rms_norm(x[t], layer.attention_norm);
        q.push_back(linear(layer.q, h));
        k.push_back(linear(layer.k, h));
        v.push_back(linear(layer.v, h));
        rotate_heads(q[t], layer.q_norm, frequencies, t);
        rotate_heads(k[t], layer.k_norm, frequencies, t);
        round_to(kv_, k[t]);
        round_to(kv_, v[t]);
      }
      for (size_t t = 0; t < x.size(); ++t) {
        add(x[t], linear(layer.output, attend(q[t], k, v, t + 1)));
        const Vector h = rms_norm(x[t], layer.feed_forward_norm);
        Vector gate = linear(layer.gate, h);
        const Vector up = linear(layer.up, h);
        for (size_t i = 0; i < gate.size(); ++i)
          gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        add(x[t], linear(layer.down, gate));
      }
    }
    for (Vector& row : x) row = linear(w.head, rms_norm(row, w.final_norm));
    return x;
  }

  // Hidden states of every token of one text.
  Matrix encoder(const EncoderWeights& w, const std::vector<TokenId>& tokens,
                 const std::vector<int32_t>& types) const {
    Matrix x = rows_of(*w.token_embedding, tokens);
    for (size_t t = 0; t < x.size(); ++t) {
      add(x[t], rows_of(*w.position_embedding, {static_cast<TokenId>(t)})[0]);
      if (w.type_embedding != nullptr) {
        add(x[t], rows_of(*w.type_embedding, {types.empty() ? 0 : types[t]})[0]);
      }
      x[t] = layer_norm(x[t], w.embedding_norm);
    }
    for (const auto& layer : w.layers) {
      Matrix q, k, v;
      for (const Vector& row : x) {
        q.push_back(linear(layer.q, row));
        k.push_back(linear(layer.k, row));
        v.push_back(linear(layer.v, row));
      }
      for (size_t t = 0; t < x.size(); ++t) {
        add(x[t], linear(layer.output, attend(q[t], k, v, x.size())));
        x[t] = layer_norm(x[t], layer.attention_norm);
        Vector h = linear(layer.up, x[t]);
        for (double& value : h) value = activate(value);
        add(x[t], linear(layer.down, h));
        x[t] = layer_norm(x[t], layer.output_norm);
      }
    }
    return x;
  }

  // One vector a text, from its hidden states.
  Vector pool(const Matrix& hidden) const {
    Vector out = hidden[0];
    if (spec_.pooling == Pooling::mean) {
      for (size_t t = 1; t < hidden.size(); ++t) add(out, hidden[t]);
      for (double& v : out) v /= static_cast<double>(hidden.size());
    }
    if (spec_.normalize) {
      double square = 0;
      for (const double v : out) square += v * v;
      for (double& v : out) v /= std::max(std::sqrt(square), 1e-12);
    }
    return out;
  }

 private:
  static Vector row_of(const NamedTensor& tensor, int64_t row) {
    const int64_t n = tensor.view.shape.columns();
    std::vector<float> values(static_cast<size_t>(n));
    dequantize_row(tensor.view, row, values.data());
    return {values.begin(), values.end()};
  }
  static Matrix rows_of(const NamedTensor& tensor, const std::vector<TokenId>& ids) {
    Matrix rows;
    for (const TokenId id : ids) rows.push_back(row_of(tensor, id));
    return rows;
  }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  Vector linear(const Linear& l, Vector x) const {
    round_to(activations_, x);
    Vector y;
    for (int64_t r = 0; r < l.weight->view.shape.rows(); ++r) {
      const Vector w = row_of(*l.weight, r);
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i) sum += w[i] * x[i];
      y.push_back(sum);
    }
    if (l.bias != nullptr) add(y, row_of(*l.bias, 0));
    return y;
  }

  Vector rms_norm(const Vector& x, const Norm& norm) const {
    double square = 0;
    for (const double v : x) square += v * v;
    const double scale =
        1 / std::sqrt(square / static_cast<double>(x.size()) + static_cast<double>(spec_.norm_eps));
    Vector y = row_of(*norm.weight, 0);
    for (size_t i = 0; i < x.size(); ++i) y[i] *= x[i] * scale;
    return y;
  }

  Vector layer_norm(const Vector& x, const Norm& norm) const {
    double mean = 0, square = 0;
    for (const double v : x) mean += v / static_cast<double>(x.size());
    for (const double v : x) square += (v - mean) * (v - mean) / static_cast<double>(x.size());
    const double scale = 1 / std::sqrt(square + static_cast<double>(spec_.norm_eps));
    Vector y = row_of(*norm.weight, 0);
    for (size_t i = 0; i < x.size(); ++i) y[i] *= (x[i] - mean) * scale;
    add(y, row_of(*norm.bias, 0));
    return y;
  }

  void rotate_heads(Vector& x, const Norm& norm, const std::vector<float>& frequencies,
                    size_t position) const {
    const auto d = static_cast<size_t>(spec_.head_dim);
    for (size_t head = 0; head < x.size(); head += d) {
      if (spec_.qk_norm) {
        const auto begin = x.begin() + static_cast<std::ptrdiff_t>(head);
        const Vector normed = rms_norm(Vector(begin, begin + static_cast<std::ptrdiff_t>(d)), norm);
        std::copy(normed.begin(), normed.end(), begin);
      }
      for (size_t i = 0; i < d / 2; ++i) {
        const bool halves = spec_.rope_pairs == RopePairs::halves;
        double& a = x[head + (halves ? i : 2 * i)];
        double& b = x[head + (halves ? i + d / 2 : 2 * i + 1)];
        const double angle = static_cast<double>(position) * static_cast<double>(frequencies[i]);
        const double c = std::cos(angle), s = std::sin(angle);
        const double rotated = a * c - b * s;
        b = a * s + b * c;
        a = rotated;
      }
    }
  }

  Vector attend(const Vector& q, const Matrix& k, const Matrix& v, size_t visible) const {
    const auto d = static_cast<size_t>(spec_.head_dim);
    const auto group = static_cast<size_t>(spec_.heads / spec_.kv_heads);
    Vector out(q.size(), 0.0);
    for (size_t head = 0; head < static_cast<size_t>(spec_.heads); ++head) {
      const size_t at = head / group * d;
      Vector weight(visible);
      double peak = -1e300, total = 0;
      for (size_t s = 0; s < visible; ++s) {
        for (size_t i = 0; i < d; ++i) weight[s] += q[head * d + i] * k[s][at + i];
        weight[s] /= std::sqrt(static_cast<double>(d));
        peak = std::max(peak, weight[s]);
      }
      for (double& w : weight) total += w = std::exp(w - peak);
      for (size_t s = 0; s < visible; ++s) {
        for (size_t i = 0; i < d; ++i) out[head * d + i] += weight[s] / total * v[s][at + i];
      }
    }
    return out;
  }

  double activate(double x) const {
    switch (spec_.activation) {
      case Activation::gelu_erf:
        return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
      case Activation::gelu_tanh:
        return 0.5 * x *
               (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
      case Activation::relu:
        return std::max(0.0, x);
      default:
        return x / (1 + std::exp(-x));
    }
  }

  const ModelSpec& spec_;
  Rounding activations_, kv_;
};

}  // namespace impetus::testing
