// The kernels of rows (row_kernels.h) on the host. For tests.
#pragma once

#include <mlx/primitives.h>
#include <mlx/scheduler.h>

#include "mlx/cuda_on_host.h"
#include "mlx/row_kernels.h"

#define alignas(bytes)
#include "mlx/kernels/add_layer_norm.cuh"
#include "mlx/kernels/draw.cuh"
#include "mlx/kernels/gated.cuh"
#include "mlx/kernels/place.cuh"
#include "mlx/kernels/pool_texts.cuh"
#include "mlx/kernels/tell.cuh"
#undef alignas

namespace impetus::mlx_backend::on_host {

static_assert(mlx_backend::kPlaceThreads == impetus::kPlaceThreads &&
              mlx_backend::kGatedThreads == impetus::kGatedThreads &&
              mlx_backend::kLayerNormThreads == impetus::kLayerNormThreads &&
              mlx_backend::kLayerNormColumns == impetus::kLayerNormColumns &&
              mlx_backend::kPoolThreads == impetus::kPoolThreads &&
              mlx_backend::kTellThreads == impetus::kTellThreads &&
              mlx_backend::kDrawThreads == impetus::kDrawThreads &&
              kSumRun == impetus::kDrawThreads && kSumLanes == impetus::kWarp &&
              mlx_backend::kNotDrawn == impetus::kNotDrawn && Draw::kWords == impetus::kDrawWords &&
              Draw::kMost == impetus::kDrawMost &&
              mlx_backend::kLayerNormColumns == impetus::kPoolThreads * impetus::kPoolEach);

// What runs when its result is wanted and not before, as a kernel does where it belongs: a step
// that never asks for it shows in a test.
class Deferred final : public mx::UnaryPrimitive {
 public:
  using Body = std::function<void(const std::vector<mx::array>& inputs, const mx::array& out)>;
  Deferred(mx::Stream stream, Body body) : UnaryPrimitive(stream), body_(std::move(body)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    std::vector<mx::array> seen;
    for (const mx::array& input : inputs) seen.push_back(mx::array::unsafe_weak_copy(input));
    mx::scheduler::enqueue(stream(), [body = body_, seen, made = mx::array::unsafe_weak_copy(out)] {
      body(seen, made);
    });
  }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::logic_error("a kernel on the host");
  }
  const char* name() const override { return "Deferred"; }

  // By MLX's CPU where that is all of it, else at once.
  static mx::array make(const mx::Shape& shape, mx::Dtype type, std::vector<mx::array> inputs,
                        Body body) {
    if (!Wall::get().has_gpu()) {
      const auto stream = mx::default_stream(mx::Device::cpu);
      return {shape, type, std::make_shared<Deferred>(stream, std::move(body)), std::move(inputs)};
    }
    mx::eval(inputs);
    mx::array out = empty(shape, type);
    body(inputs, out);
    return out;
  }

 private:
  Body body_;
};

// The shapes and types that are compiled here.
class HostRows final : public RowKernels {
 public:
  HostRows(const DecodeShape& shape, const ModelSpec& spec)
      : shape_(shape), frequencies_(spec.rope_frequencies()), epsilon_(spec.norm_eps) {}

  // Null where the shape is none of those.
  static std::unique_ptr<RowKernels> make(const DecodeShape& shape, const ModelSpec& spec) {
    auto kernels = std::make_unique<HostRows>(shape, spec);
    const bool has_form = spec.kind == ModelKind::encoder || kernels->with([](auto) {});
    return has_form ? std::move(kernels) : nullptr;
  }

  mx::array place(const PlaceStep& step, const mx::array& qkv, const mx::array& keys,
                  const mx::array& values, const mx::array& q_norm,
                  const mx::array& k_norm) override {
    return Deferred::make(
        {step.rows, shape_.heads, 1, shape_.head_dim}, shape_.kv,
        {qkv, keys, values, step.plan, q_norm, k_norm},
        [this](const std::vector<mx::array>& inputs, const mx::array& out) { place(inputs, out); });
  }

  mx::array gated(const mx::array& both) override {
    mx::array in = mx::contiguous(both);
    in.eval();
    const int rows = in.shape(0), columns = in.shape(1) / 2;
    mx::array out = empty({rows, columns}, shape_.activations);
    with_type([&](auto zero) {
      using T = decltype(zero);
      launch({static_cast<unsigned>(gated_blocks(rows, columns)), 1, 1}, kGatedThreads,
             [&] { impetus::gated<T>(data<T>(in), rows, columns, data<T>(out)); });
    });
    return out;
  }

  mx::array add_layer_norm(const mx::array& residual, const mx::array& x, const mx::array& weight,
                           const std::optional<mx::array>& bias) override {
    std::vector<mx::array> inputs = {mx::contiguous(residual), mx::contiguous(x), weight,
                                     bias ? *bias : weight};
    mx::eval(inputs);
    mx::array out = empty(residual.shape(), shape_.activations);
    with_type([&](auto zero) {
      using T = decltype(zero);
      const auto run = [&]<bool BIAS>() {
        launch({static_cast<unsigned>(residual.shape(0)), 1, 1}, kLayerNormThreads, [&] {
          impetus::add_layer_norm<T, BIAS>(data<T>(inputs[0]), data<T>(inputs[1]),
                                           data<T>(inputs[2]), data<T>(inputs[3]), epsilon_,
                                           static_cast<int>(residual.shape(1)), data<T>(out));
        });
      };
      bias ? run.template operator()<true>() : run.template operator()<false>();
    });
    return out;
  }

  mx::array pool(Pool how, const mx::array& rows, const mx::array& offsets,
                 const mx::array& out) override {
    return Deferred::make(
        {1}, mx::int32, {mx::contiguous(rows), offsets, out},
        [this, how](const std::vector<mx::array>& inputs, const mx::array& done) {
          with_type([&](auto zero) {
            using T = decltype(zero);
            const auto run = [&]<bool MEAN, bool NORMALIZE>() {
              launch({static_cast<unsigned>(inputs[2].shape(0)), 1, 1}, kPoolThreads, [&] {
                impetus::pool_texts<T, MEAN, NORMALIZE>(data<T>(inputs[0]), data<int>(inputs[1]),
                                                        static_cast<int>(inputs[0].shape(1)),
                                                        data<float>(inputs[2]));
              });
            };
            if (how.mean && how.normalize) return run.template operator()<true, true>();
            if (how.mean) return run.template operator()<true, false>();
            if (how.normalize) return run.template operator()<false, true>();
            return run.template operator()<false, false>();
          });
          data<int>(done)[0] = 1;
        });
  }

  // Words of 4 bytes, whatever they are.
  mx::array tell(const mx::array& values, const mx::array& out) override {
    return Deferred::make({1}, mx::int32, {mx::contiguous(values), out},
                          [](const std::vector<mx::array>& inputs, const mx::array& done) {
                            const auto count = static_cast<int>(inputs[0].size());
                            const auto blocks = static_cast<unsigned>(tell_blocks(count));
                            launch({blocks, 1, 1}, kTellThreads, [&] {
                              impetus::tell<int>(data<int>(inputs[0]), count, data<int>(inputs[1]));
                            });
                            data<int>(done)[0] = 1;
                          });
  }

  mx::array draw(const mx::array& logits, const mx::array& likeliest, const mx::array& draws,
                 const mx::array& out) override {
    const auto rows = static_cast<size_t>(out.shape(0));
    draw_counts_.resize(std::max(draw_counts_.size(), rows * kDrawCounts));
    const size_t sums = rows * static_cast<size_t>(draw_runs(logits.shape(1)));
    draw_sums_.resize(std::max(draw_sums_.size(), sums));
    return Deferred::make(
        out.shape(), mx::int32, {mx::contiguous(logits), likeliest, draws, out},
        [this](const std::vector<mx::array>& inputs, const mx::array& next) {
          const int vocab = static_cast<int>(inputs[0].shape(1));
          launch(
              {static_cast<unsigned>(draw_blocks(vocab)), static_cast<unsigned>(next.shape(0)), 1},
              kDrawThreads, [&] {
                impetus::draw(data<float>(inputs[0]), data<int>(inputs[1]), data<int>(inputs[2]),
                              vocab, draw_counts_.data(), draw_sums_.data(), data<int>(inputs[3]),
                              data<int>(next));
              });
        });
  }

 private:
  void place(const std::vector<mx::array>& inputs, const mx::array& queries) {
    with([&](auto form) {
      using F = decltype(form);
      using T = typename F::T;
      using U = typename F::U;
      const auto run = [&]<bool NEIGHBOURS, bool NORM>() {
        launch({static_cast<unsigned>(queries.shape(0)), 1, 1}, kPlaceThreads, [&] {
          impetus::place<T, U, F::kDim, NEIGHBOURS, NORM>(
              F::kHeads, F::kKvHeads, data<T>(inputs[0]), data<int>(inputs[3]), frequencies_.data(),
              data<T>(inputs[4]), data<T>(inputs[5]), epsilon_, data<U>(inputs[1]),
              data<U>(inputs[2]), static_cast<int>(inputs[1].shape(1)), data<U>(queries));
        });
      };
      if (shape_.neighbours && shape_.qk_norm) return run.template operator()<true, true>();
      if (shape_.neighbours) return run.template operator()<true, false>();
      if (shape_.qk_norm) return run.template operator()<false, true>();
      return run.template operator()<false, false>();
    });
  }

  template <typename Body>
  void with_type(Body&& body) {
    if (shape_.activations == mx::float32) return body(0.0f);
    if (shape_.activations == mx::float16) return body(_Float16(0));
    return body(Bf16());
  }

  template <typename Body>
  bool with(Body&& body) {
    return with_form(shape_, body);
  }

  DecodeShape shape_;
  std::vector<float> frequencies_;
  float epsilon_;
  std::vector<unsigned> draw_counts_;
  std::vector<double> draw_sums_;
};

}  // namespace impetus::mlx_backend::on_host
