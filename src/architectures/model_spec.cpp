#include "architectures/model_spec.h"

#include <cmath>
#include <numbers>

#include "architectures/architecture.h"
#include "formats/mlx_quantised.h"

namespace impetus {
namespace {

Error as_corrupt(Error failure) {
  if (failure.code == ErrorCode::invalid_argument) failure.code = ErrorCode::corrupt;
  return failure;
}

// A field of config.json, for which the wrong type is a corrupt file rather than a bad request.
template <typename T, typename Getter>
Result<std::optional<T>> field(Getter getter, const json::object& object, std::string_view key) {
  if (key.empty()) return std::optional<T>{};
  auto value = getter(object, key);
  if (!value.ok()) return as_corrupt(std::move(value).error());
  return value;
}

Result<int64_t> dimension(const json::object& config, std::string_view key, int64_t maximum,
                          std::optional<int64_t> fallback = std::nullopt) {
  IMPETUS_TRY(const auto value, field<int64_t>(int_field, config, key));
  if (!value && fallback) return *fallback;
  if (!value) return error(ErrorCode::corrupt, "'{}' is missing", key);
  return bounded(key, *value, maximum);
}

Result<bool> flag(const json::object& config, std::string_view key) {
  IMPETUS_TRY(const auto value, field<bool>(bool_field, config, key));
  return value.value_or(false);
}

Result<double> number(const json::object& object, std::string_view key,
                      std::optional<double> fallback = std::nullopt) {
  IMPETUS_TRY(const auto value, field<double>(number_field, object, key));
  if (!value && fallback) return *fallback;
  if (!value) return error(ErrorCode::corrupt, "'{}' is missing", key);
  return *value;
}

std::string clipped(std::string_view text) {
  return std::string(text.substr(0, 100));
}

Result<Activation> read_activation(const Architecture& row, const json::object& config) {
  IMPETUS_TRY(const auto named, field<std::string>(string_field, config, row.keys.activation));
  const std::string name = named.value_or(std::string(row.activation_default));
  if (row.kind == ModelKind::decoder) {
    if (name == "silu" || name == "swish") return Activation::silu;
  } else {
    if (name == "gelu") return Activation::gelu_erf;
    if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
      return Activation::gelu_tanh;
    }
    if (name == "relu") return Activation::relu;
  }
  return error(ErrorCode::unsupported,
               "'{}' is {}, which this version does not run for {}; it runs {}",
               row.keys.activation, clipped(name), row.name,
               row.kind == ModelKind::decoder ? "silu" : "gelu, gelu_new, relu");
}

Result<RopeScaling> read_scaling(const json::object& object, std::string_view place) {
  IMPETUS_TRY(const auto type, field<std::string>(string_field, object, "rope_type"));
  IMPETUS_TRY(const auto legacy, field<std::string>(string_field, object, "type"));
  if (type && legacy && *type != *legacy) {
    return error(ErrorCode::corrupt, "'{}' contradicts itself: rope_type {}, type {}", place,
                 clipped(*type), clipped(*legacy));
  }
  const std::string name = type ? *type : legacy.value_or("default");
  RopeScaling scaling;
  if (name == "default") return scaling;
  if (name == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
    IMPETUS_TRY(scaling.factor, number(object, "factor"));
    return scaling;
  }
  if (name == "llama3") {
    scaling.kind = RopeScaling::Kind::llama3;
    IMPETUS_TRY(scaling.factor, number(object, "factor"));
    IMPETUS_TRY(scaling.low_frequency_factor, number(object, "low_freq_factor"));
    IMPETUS_TRY(scaling.high_frequency_factor, number(object, "high_freq_factor"));
    IMPETUS_TRY(scaling.original_context,
                dimension(object, "original_max_position_embeddings", kContextMax));
    return scaling;
  }
  return error(
      ErrorCode::unsupported,
      "'{}' has rope type {}, which this version does not run; it runs default, linear, llama3",
      place, clipped(name));
}

Result<const json::object*> object_field(const json::object& config, std::string_view key) {
  const json::value* value = config.if_contains(key);
  if (value == nullptr || value->is_null()) return static_cast<const json::object*>(nullptr);
  if (!value->is_object()) return error(ErrorCode::corrupt, "'{}' is not an object", key);
  return value->if_object();
}

Result<void> read_rope(const json::object& config, ModelSpec& spec) {
  IMPETUS_TRY(const json::object* parameters, object_field(config, "rope_parameters"));
  IMPETUS_TRY(const json::object* scaling, object_field(config, "rope_scaling"));
  IMPETUS_TRY(const auto theta, field<double>(number_field, config, "rope_theta"));
  spec.rope_theta = theta.value_or(10000);
  double rotated = 1;
  IMPETUS_TRY(rotated, number(config, "partial_rotary_factor", 1.0));
  if (parameters != nullptr) {
    if (parameters->contains("full_attention") || parameters->contains("sliding_attention")) {
      return error(ErrorCode::unsupported,
                   "'rope_parameters' differ by layer, which this version does not run");
    }
    IMPETUS_TRY(const auto nested, field<double>(number_field, *parameters, "rope_theta"));
    if (nested && theta && *nested != *theta) {
      return error(ErrorCode::corrupt, "'rope_theta' is {}, in 'rope_parameters' {}", *theta,
                   *nested);
    }
    if (nested) spec.rope_theta = *nested;
    IMPETUS_TRY(rotated, number(*parameters, "partial_rotary_factor", rotated));
  }
  if (rotated != 1) {
    return error(ErrorCode::unsupported,
                 "'partial_rotary_factor' is {}: this version rotates whole heads", rotated);
  }
  if (parameters != nullptr) {
    IMPETUS_TRY(spec.rope_scaling, read_scaling(*parameters, "rope_parameters"));
  }
  if (scaling != nullptr) {
    IMPETUS_TRY(const RopeScaling older, read_scaling(*scaling, "rope_scaling"));
    if (parameters == nullptr) {
      spec.rope_scaling = older;
    } else if (older.kind != spec.rope_scaling.kind || older.factor != spec.rope_scaling.factor) {
      return error(ErrorCode::corrupt,
                   "'rope_scaling' and 'rope_parameters' contradict each other");
    }
  }
  return {};
}

// Settings that change the computation and are not run here: refused where they are on.
Result<void> refuse_settings(const json::object& config, const Architecture& row) {
  if (const json::value* quantised = config.if_contains("quantization_config");
      quantised != nullptr && !quantised->is_null() && mlx_quantisation(config) == nullptr) {
    std::string method = "unnamed";
    if (const json::object* object = quantised->if_object()) {
      IMPETUS_TRY(const auto named, field<std::string>(string_field, *object, "quant_method"));
      method = named.value_or(method);
    }
    return error(
        ErrorCode::unsupported,
        "'quantization_config' (method {}): this version reads safetensors that are unquantised "
        "or quantised by MLX, and quantised weights from GGUF",
        clipped(method));
  }
  for (const std::string_view key : {"use_sliding_window", "is_decoder", "add_cross_attention"}) {
    IMPETUS_TRY(const bool on, flag(config, key));
    if (on)
      return error(ErrorCode::unsupported, "'{}' is on, which this version does not run", key);
  }
  IMPETUS_TRY(const auto positions,
              field<std::string>(string_field, config, "position_embedding_type"));
  if (row.kind == ModelKind::encoder && positions && *positions != "absolute") {
    return error(ErrorCode::unsupported,
                 "'position_embedding_type' is {}: this version runs absolute positions",
                 clipped(*positions));
  }
  if (const json::value* types = config.if_contains("layer_types");
      types != nullptr && !types->is_null()) {
    if (!types->is_array()) return error(ErrorCode::corrupt, "'layer_types' is not an array");
    for (const json::value& type : types->get_array()) {
      const auto* name = type.if_string();
      if (name == nullptr || *name != "full_attention") {
        return error(ErrorCode::unsupported,
                     "'layer_types' has {}: this version runs full_attention",
                     clipped(json::serialize(type)));
      }
    }
  }
  return {};
}

Result<void> read_decoder(const json::object& config, const Architecture& row, ModelSpec& spec) {
  IMPETUS_TRY(spec.kv_heads, dimension(config, "num_key_value_heads", kHeadsMax, spec.heads));
  IMPETUS_TRY(const auto head_dim, field<int64_t>(int_field, config, "head_dim"));
  if (head_dim) {
    IMPETUS_TRY(spec.head_dim, bounded("head_dim", *head_dim, kWidthMax));
  } else if (row.head_dim_default > 0) {
    spec.head_dim = row.head_dim_default;
  } else if (spec.hidden % spec.heads == 0) {
    spec.head_dim = spec.hidden / spec.heads;
  } else {
    return error(ErrorCode::corrupt,
                 "'head_dim' is missing, and '{}' {} is not a multiple of '{}' {}", row.keys.hidden,
                 spec.hidden, row.keys.heads, spec.heads);
  }
  spec.qk_norm = row.qk_norm;
  spec.qkv_bias = row.qkv_bias;
  IMPETUS_TRY(const bool attention_bias, flag(config, "attention_bias"));
  IMPETUS_TRY(const bool mlp_bias, flag(config, "mlp_bias"));
  if (row.attention_bias_key) spec.qkv_bias = spec.output_bias = attention_bias;
  if (row.mlp_bias_key) spec.mlp_bias = mlp_bias;
  IMPETUS_TRY(const auto tied, field<bool>(bool_field, config, "tie_word_embeddings"));
  spec.tied_embeddings = tied.value_or(false);
  spec.tied_if_headless = !tied.has_value();
  return read_rope(config, spec);
}

Result<void> read_encoder(const json::object& config, const Architecture& row, ModelSpec& spec) {
  spec.kv_heads = spec.heads;
  spec.head_dim = spec.hidden / spec.heads;  // validate: hidden == heads * head_dim
  if (!row.keys.token_types.empty()) {
    IMPETUS_TRY(spec.token_types, dimension(config, row.keys.token_types, kWidthMax, 2));
  }
  spec.pooling = Pooling::mean;
  spec.normalize = true;
  spec.sequence_length_max = spec.context;
  return {};
}

}  // namespace

Result<ModelSpec> spec_from_config(const json::object& config) {
  IMPETUS_TRY(const auto type, field<std::string>(string_field, config, "model_type"));
  if (!type) return error(ErrorCode::corrupt, "'model_type' is missing");
  const Architecture* row = find_architecture(*type);
  if (row == nullptr) {
    return error(ErrorCode::unsupported, "model_type '{}' is not one this version runs; it runs {}",
                 clipped(*type), architecture_names(false));
  }
  IMPETUS_CHECK(refuse_settings(config, *row));
  ModelSpec spec;
  spec.family = row->name;
  spec.kind = row->kind;
  IMPETUS_TRY(spec.layers, dimension(config, row->keys.layers, kLayersMax));
  IMPETUS_TRY(spec.hidden, dimension(config, row->keys.hidden, kWidthMax));
  IMPETUS_TRY(spec.heads, dimension(config, row->keys.heads, kHeadsMax));
  IMPETUS_TRY(spec.feed_forward, dimension(config, row->keys.feed_forward, kWidthMax));
  IMPETUS_TRY(spec.vocab, dimension(config, "vocab_size", kVocabMax));
  IMPETUS_TRY(spec.context, dimension(config, "max_position_embeddings", kContextMax));
  double eps = row->norm_eps_default;
  if (!row->keys.norm_eps.empty()) {
    IMPETUS_TRY(eps, number(config, row->keys.norm_eps, eps));
  }
  spec.norm_eps = static_cast<float>(eps);
  IMPETUS_TRY(spec.activation, read_activation(*row, config));
  if (spec.kind == ModelKind::decoder) {
    IMPETUS_CHECK(read_decoder(config, *row, spec));
  } else {
    IMPETUS_CHECK(read_encoder(config, *row, spec));
  }
  IMPETUS_CHECK(validate(spec));
  return spec;
}

std::vector<float> ModelSpec::rope_frequencies() const {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  const double original = static_cast<double>(rope_scaling.original_context);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency =
        std::pow(rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (rope_scaling.kind) {
      case RopeScaling::Kind::none:
        break;
      case RopeScaling::Kind::linear:
        frequency /= rope_scaling.factor;
        break;
      case RopeScaling::Kind::llama3: {
        // Llama 3.1's reference: long waves are stretched by the factor, short ones kept, and those
        // between are blended by how often they turn within the original context.
        const double turns = original * frequency / (2 * std::numbers::pi);
        const double low = rope_scaling.low_frequency_factor;
        const double high = rope_scaling.high_frequency_factor;
        if (turns < low) {
          frequency /= rope_scaling.factor;
        } else if (turns <= high) {
          const double smooth = (turns - low) / (high - low);
          frequency *= (1 - smooth) / rope_scaling.factor + smooth;
        }
        break;
      }
    }
    if (!rope_divisors.empty()) frequency /= static_cast<double>(rope_divisors[i]);
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace impetus
