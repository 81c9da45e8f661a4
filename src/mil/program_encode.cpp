#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include <google/protobuf/arena.h>

#include "mil/codec_types.h"
#include "mil/program_codec.h"
#include "mil/proto/model.pb.h"

namespace impetus::mil {
namespace {

constexpr int64_t kBlobElementsMin = 10;  // coremltools' threshold
constexpr int kSpecificationOfFunctions = 9;

template <typename... Args>
Error invalid(fmt::format_string<Args...> format, Args&&... args) {
  return error(ErrorCode::invalid_argument, format, std::forward<Args>(args)...);
}

Result<void> put_text(std::string* to, const std::string& from) {
  if (!is_utf8(from)) return invalid("a name or text that is not UTF-8");
  *to = from;
  return {};
}

class Encoder {
 public:
  Encoder(int specification_version, BlobLayout& weights)
      : specification_version_(specification_version), weights_(weights) {}

  Result<void> program(const Program& from, proto::Program* to);

 private:
  using Values = std::map<std::string, Value, std::less<>>;
  enum class Place { program, weights };  // where a large constant may stand

  Result<void> function(const Function& from, proto::Function* to);
  Result<void> block(const Block& from, proto::Block* to, int depth);
  Result<void> operation(const Operation& from, proto::Operation* to, int depth);
  Result<void> named_type(const NamedType& from, proto::NamedValueType* to);
  Result<void> dimension(int64_t from, proto::Dimension* to);
  Result<void> tensor_type(const TensorType& from, proto::TensorType* to);
  Result<void> value_type(const ValueType& from, proto::ValueType* to, int depth);
  Result<void> value(const Value& from, Place place, proto::Value* to, int depth);
  Result<void> tensor(const Value& from, Place place, proto::Value* to);
  bool in_weights(const TensorType& type) const;
  template <typename Entries>
  Result<void> values(const Values& from, Place place, Entries* to);

  int specification_version_;
  BlobLayout& weights_;
};

Result<void> Encoder::dimension(int64_t from, proto::Dimension* to) {
  if (from < kUnknown) return invalid("a dimension of {}", from);
  if (from == kUnknown) {
    to->mutable_unknown();
  } else {
    to->mutable_constant()->set_size(static_cast<uint64_t>(from));
  }
  return {};
}

Result<void> Encoder::tensor_type(const TensorType& from, proto::TensorType* to) {
  if (from.shape.size() > kRankMax) return invalid("a tensor of rank {}", from.shape.size());
  to->set_data_type(number_of(from.dtype));
  to->set_rank(static_cast<int64_t>(from.shape.size()));
  for (const int64_t one : from.shape) IMPETUS_CHECK(dimension(one, to->add_dimensions()));
  return {};
}

Result<void> Encoder::value_type(const ValueType& from, proto::ValueType* to, int depth) {
  if (depth > kValueDepthMax) return invalid("a type nested more than {} deep", kValueDepthMax);
  const auto count_is = [&](size_t count) -> Result<void> {
    if (from.elements.size() == count) return {};
    return invalid("{} with {} inner types, not {}", from.to_string(), from.elements.size(), count);
  };
  switch (from.kind) {
    case ValueType::Kind::tensor:
      return tensor_type(from.tensor, to->mutable_tensor_type());
    case ValueType::Kind::state:
      return tensor_type(from.tensor,
                         to->mutable_state_type()->mutable_wrapped_type()->mutable_tensor_type());
    case ValueType::Kind::list:
      IMPETUS_CHECK(count_is(1));
      IMPETUS_CHECK(dimension(from.length, to->mutable_list_type()->mutable_length()));
      return value_type(from.elements[0], to->mutable_list_type()->mutable_type(), depth + 1);
    case ValueType::Kind::tuple:
      to->mutable_tuple_type();
      for (const ValueType& one : from.elements) {
        IMPETUS_CHECK(value_type(one, to->mutable_tuple_type()->add_types(), depth + 1));
      }
      return {};
    case ValueType::Kind::dictionary:
      IMPETUS_CHECK(count_is(2));
      IMPETUS_CHECK(value_type(from.elements[0], to->mutable_dictionary_type()->mutable_key_type(),
                               depth + 1));
      return value_type(from.elements[1], to->mutable_dictionary_type()->mutable_value_type(),
                        depth + 1);
  }
  return invalid("a type of no kind");
}

template <typename From, typename Field>
void put_numbers(const Bytes& from, size_t count, Field* to) {
  for (size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from.view.data() + i * sizeof(From), sizeof(From));
    to->Add(value);
  }
}

bool Encoder::in_weights(const TensorType& type) const {
  switch (type.dtype) {
    case DataType::i16:
    case DataType::u16:
    case DataType::i32:
    case DataType::u32:
      return specification_version_ >= 9;
    default:
      return has_blob_code(type.dtype);
  }
}

Result<void> Encoder::tensor(const Value& from, Place place, proto::Value* to) {
  const TensorType& type = from.type.tensor;
  const auto elements = type.elements();
  const auto bytes = type.bytes();
  if (!elements || !bytes) return invalid("a constant {}", type.to_string());
  const auto count = static_cast<size_t>(*elements);
  const bool strings = type.dtype == DataType::string;
  if (strings ? from.strings.size() != count
              : from.bytes.view.size() != static_cast<size_t>(*bytes)) {
    return invalid("a constant {} with {} {}", type.to_string(),
                   strings ? from.strings.size() : from.bytes.view.size(),
                   strings ? "strings" : "bytes");
  }
  if (place == Place::weights && *elements >= kBlobElementsMin && in_weights(type)) {
    to->mutable_blob_file_value()->set_file_name(std::string(kWeightFileName));
    to->mutable_blob_file_value()->set_offset(weights_.add(type, from.bytes.view));
    return {};
  }
  proto::TensorValue* tensor = to->mutable_immediate_value()->mutable_tensor();
  switch (type.dtype) {
    case DataType::string:
      tensor->mutable_strings();
      for (const std::string& one : from.strings) {
        IMPETUS_CHECK(put_text(tensor->mutable_strings()->add_values(), one));
      }
      return {};
    case DataType::boolean:
      tensor->mutable_bools();
      for (const std::byte one : from.bytes.view) {
        if (std::to_integer<int>(one) > 1) return invalid("a bool that is neither 0 nor 1");
        tensor->mutable_bools()->add_values(one != std::byte{0});
      }
      return {};
    case DataType::f32:
      put_numbers<float>(from.bytes, count, tensor->mutable_floats()->mutable_values());
      return {};
    case DataType::f64:
      put_numbers<double>(from.bytes, count, tensor->mutable_doubles()->mutable_values());
      return {};
    case DataType::i16:
      put_numbers<int16_t>(from.bytes, count, tensor->mutable_ints()->mutable_values());
      return {};
    case DataType::u16:
      put_numbers<uint16_t>(from.bytes, count, tensor->mutable_ints()->mutable_values());
      return {};
    case DataType::i32:
      put_numbers<int32_t>(from.bytes, count, tensor->mutable_ints()->mutable_values());
      return {};
    case DataType::i64:
    case DataType::u64:
      put_numbers<int64_t>(from.bytes, count, tensor->mutable_long_ints()->mutable_values());
      return {};
    default:
      tensor->mutable_bytes()->set_values(from.bytes.view.data(), from.bytes.view.size());
      return {};
  }
}

Result<void> Encoder::value(const Value& from, Place place, proto::Value* to, int depth) {
  if (depth > kValueDepthMax) return invalid("a constant nested more than {} deep", kValueDepthMax);
  IMPETUS_CHECK(value_type(from.type, to->mutable_type(), 1));
  proto::Value::ImmediateValue* immediate = nullptr;
  const auto inner = [&](size_t i, proto::Value* one) {
    return value(from.elements[i], Place::program, one, depth + 1);
  };
  switch (from.type.kind) {
    case ValueType::Kind::tensor:
      return tensor(from, place, to);
    case ValueType::Kind::state:
      return invalid("a constant {}", from.type.to_string());
    case ValueType::Kind::list:
    case ValueType::Kind::tuple:
      immediate = to->mutable_immediate_value();
      if (from.type.kind == ValueType::Kind::list) {
        immediate->mutable_list();
      } else {
        immediate->mutable_tuple();
      }
      for (size_t i = 0; i < from.elements.size(); ++i) {
        IMPETUS_CHECK(inner(i, immediate->has_list() ? immediate->mutable_list()->add_values()
                                                     : immediate->mutable_tuple()->add_values()));
      }
      return {};
    case ValueType::Kind::dictionary:
      if (from.elements.size() % 2 != 0) return invalid("a dictionary with half a pair");
      immediate = to->mutable_immediate_value();
      immediate->mutable_dictionary();
      for (size_t i = 0; i < from.elements.size(); i += 2) {
        auto* pair = immediate->mutable_dictionary()->add_values();
        IMPETUS_CHECK(inner(i, pair->mutable_key()));
        IMPETUS_CHECK(inner(i + 1, pair->mutable_value()));
      }
      return {};
  }
  return invalid("a constant of no kind");
}

template <typename Entries>
Result<void> Encoder::values(const Values& from, Place place, Entries* to) {
  for (const auto& [key, one] : from) {
    proto::ValueEntry* entry = to->Add();
    IMPETUS_CHECK(put_text(entry->mutable_key(), key));
    if (auto done = value(one, place, entry->mutable_value(), 1); !done.ok()) {
      return Error(done.error()).within(fmt::format("attribute {}", key));
    }
  }
  return {};
}

Result<void> Encoder::named_type(const NamedType& from, proto::NamedValueType* to) {
  IMPETUS_CHECK(put_text(to->mutable_name(), from.name));
  return value_type(from.type, to->mutable_type(), 1);
}

Result<void> Encoder::operation(const Operation& from, proto::Operation* to, int depth) {
  // coremltools reads other operations' constants only from the program itself.
  const Place place =
      from.type == "const" || from.type.starts_with("constexpr_") ? Place::weights : Place::program;
  IMPETUS_CHECK(put_text(to->mutable_type(), from.type));
  for (const auto& [parameter, argument] : from.inputs) {
    proto::ArgumentEntry* entry = to->add_inputs();
    IMPETUS_CHECK(put_text(entry->mutable_key(), parameter));
    entry->mutable_value();
    for (const Binding& one : argument) {
      proto::Argument::Binding* binding = entry->mutable_value()->add_arguments();
      if (const auto* name = std::get_if<std::string>(&one)) {
        IMPETUS_CHECK(put_text(binding->mutable_name(), *name));
        continue;
      }
      const auto done = value(std::get<Value>(one), place, binding->mutable_value(), 1);
      if (!done.ok()) return Error(done.error()).within(fmt::format("parameter {}", parameter));
    }
  }
  for (const NamedType& one : from.outputs) IMPETUS_CHECK(named_type(one, to->add_outputs()));
  for (const Block& one : from.blocks) IMPETUS_CHECK(block(one, to->add_blocks(), depth + 1));
  return values(from.attributes, place, to->mutable_attributes());
}

Result<void> Encoder::block(const Block& from, proto::Block* to, int depth) {
  if (depth > kBlockDepthMax) return invalid("blocks nested more than {} deep", kBlockDepthMax);
  for (const NamedType& one : from.inputs) IMPETUS_CHECK(named_type(one, to->add_inputs()));
  for (const std::string& one : from.outputs) IMPETUS_CHECK(put_text(to->add_outputs(), one));
  for (const Operation& one : from.operations) {
    if (auto done = operation(one, to->add_operations(), depth); !done.ok()) {
      return Error(done.error()).within(fmt::format("operation {} ({})", one.name(), one.type));
    }
  }
  return values(from.attributes, Place::program, to->mutable_attributes());
}

Result<void> Encoder::function(const Function& from, proto::Function* to) {
  for (const NamedType& one : from.inputs) IMPETUS_CHECK(named_type(one, to->add_inputs()));
  IMPETUS_CHECK(put_text(to->mutable_opset(), from.opset));
  for (const auto& [opset, one] : from.blocks) {
    proto::BlockEntry* entry = to->add_block_specializations();
    IMPETUS_CHECK(put_text(entry->mutable_key(), opset));
    IMPETUS_CHECK(block(one, entry->mutable_value(), 1));
  }
  return values(from.attributes, Place::program, to->mutable_attributes());
}

Result<void> Encoder::program(const Program& from, proto::Program* to) {
  if (from.version != 1) return invalid("an ML program of version {}, not 1", from.version);
  to->set_version(from.version);
  for (const auto& [name, one] : from.functions) {
    proto::FunctionEntry* entry = to->add_functions();
    IMPETUS_CHECK(put_text(entry->mutable_key(), name));
    if (auto done = function(one, entry->mutable_value()); !done.ok()) {
      return Error(done.error()).within(fmt::format("function {}", name));
    }
  }
  return values(from.attributes, Place::program, to->mutable_attributes());
}

// ---- The description

Result<void> put_shape(const std::vector<int64_t>& from,
                       google::protobuf::RepeatedField<int64_t>* to) {
  if (from.size() > kRankMax) return invalid("a shape of {} dimensions", from.size());
  for (const int64_t one : from) {
    if (one < 0) return invalid("a dimension of {}", one);
    to->Add(one);
  }
  return {};
}

Result<void> put_range(const std::pair<int64_t, int64_t>& from, proto::SizeRange* to) {
  const auto [lower, upper] = from;
  if (lower < 0 || (upper < lower && upper != kUnknown)) {
    return invalid("a range from {} to {}", lower, upper);
  }
  to->set_lower_bound(static_cast<uint64_t>(lower));
  to->set_upper_bound(upper);
  return {};
}

Result<void> put_array(const Feature& from, proto::ArrayFeatureType* to) {
  const auto number = array_number_of(from.type.dtype);
  if (!number)
    return invalid("arrays of {} do not enter or leave a model", to_string(from.type.dtype));
  to->set_data_type(*number);
  IMPETUS_CHECK(put_shape(from.type.shape, to->mutable_shape()));
  for (const auto& one : from.enumerated) {
    IMPETUS_CHECK(put_shape(one, to->mutable_enumerated_shapes()->add_shapes()->mutable_shape()));
  }
  if (from.ranges.size() > kRankMax) return invalid("{} ranges", from.ranges.size());
  for (const auto& one : from.ranges) {
    IMPETUS_CHECK(put_range(one, to->mutable_shape_range()->add_size_ranges()));
  }
  return {};
}

Result<void> put_image(const Feature& from, proto::ImageFeatureType* to) {
  const auto is_image = [&](const std::vector<int64_t>& shape) {
    return shape.size() == 4 && shape[0] == 1 && shape[1] == channels_of(from.color) &&
           shape[2] >= 0 && shape[3] >= 0;
  };
  if (from.color == Feature::Color::none || from.type.dtype != type_of(from.color) ||
      !is_image(from.type.shape) || !std::ranges::all_of(from.enumerated, is_image) ||
      (!from.ranges.empty() && from.ranges.size() != 4)) {
    return invalid("an image is uint8 (fp16 for grayscale_f16) [1, channels, height, width]");
  }
  to->set_color_space(number_of(from.color));
  to->set_height(from.type.shape[2]);
  to->set_width(from.type.shape[3]);
  for (const auto& one : from.enumerated) {
    auto* size = to->mutable_enumerated_sizes()->add_sizes();
    size->set_height(static_cast<uint64_t>(one[2]));
    size->set_width(static_cast<uint64_t>(one[3]));
  }
  if (from.ranges.empty()) return {};
  auto* bounds = to->mutable_image_size_range();
  IMPETUS_CHECK(put_range(from.ranges[2], bounds->mutable_height_range()));
  return put_range(from.ranges[3], bounds->mutable_width_range());
}

Result<void> put_feature(const Feature& from, proto::FeatureDescription* to) {
  IMPETUS_CHECK(put_text(to->mutable_name(), from.name));
  to->mutable_type()->set_is_optional(from.optional);
  if (!from.enumerated.empty() && !from.ranges.empty()) {
    return invalid("a feature with both enumerated shapes and ranges");
  }
  switch (from.kind) {
    case Feature::Kind::array:
      return put_array(from, to->mutable_type()->mutable_multi_array_type());
    case Feature::Kind::state:
      return put_array(from, to->mutable_type()->mutable_state_type()->mutable_array_type());
    case Feature::Kind::image:
      return put_image(from, to->mutable_type()->mutable_image_type());
    case Feature::Kind::other:
      break;
  }
  return invalid("only arrays, images and states are written");
}

// Of the model itself, or of one of its functions.
template <typename Description>
Result<void> put_features(const FunctionDescription& from, Description* to) {
  const auto put = [](const Feature& one, proto::FeatureDescription* made) -> Result<void> {
    auto done = put_feature(one, made);
    if (done.ok()) return {};
    return Error(done.error()).within(fmt::format("feature {}", one.name));
  };
  for (const Feature& one : from.inputs) IMPETUS_CHECK(put(one, to->add_input()));
  for (const Feature& one : from.outputs) IMPETUS_CHECK(put(one, to->add_output()));
  for (const Feature& one : from.states) IMPETUS_CHECK(put(one, to->add_state()));
  return {};
}

Result<void> put_metadata(const Metadata& from, proto::Metadata* to) {
  IMPETUS_CHECK(put_text(to->mutable_short_description(), from.description));
  IMPETUS_CHECK(put_text(to->mutable_version_string(), from.version));
  IMPETUS_CHECK(put_text(to->mutable_author(), from.author));
  IMPETUS_CHECK(put_text(to->mutable_license(), from.license));
  for (const auto& [key, value] : from.user) {
    proto::StringEntry* entry = to->add_user_defined();
    IMPETUS_CHECK(put_text(entry->mutable_key(), key));
    IMPETUS_CHECK(put_text(entry->mutable_value(), value));
  }
  return {};
}

Result<void> put_description(const Model& from, proto::ModelDescription* to) {
  IMPETUS_CHECK(put_metadata(from.metadata, to->mutable_metadata()));
  if (from.functions.size() == 1 && from.functions[0].name == "main" &&
      from.default_function == "main") {
    return put_features(from.functions[0], to);
  }
  if (from.specification_version < kSpecificationOfFunctions) {
    return invalid("named functions need specification version {} (macOS 15), not {}",
                   kSpecificationOfFunctions, from.specification_version);
  }
  std::set<std::string_view> names;
  for (const FunctionDescription& one : from.functions) {
    if (!names.insert(one.name).second) {
      return invalid("function {} is described twice", one.name);
    }
    proto::FunctionDescription* made = to->add_functions();
    IMPETUS_CHECK(put_text(made->mutable_name(), one.name));
    IMPETUS_CHECK(put_features(one, made));
  }
  if (!names.contains(from.default_function)) {
    return invalid("the default function '{}' is none of those described", from.default_function);
  }
  return put_text(to->mutable_default_function_name(), from.default_function);
}

}  // namespace

Result<EncodedModel> encode_model(const Model& model) {
  if (model.specification_version < kSpecificationFirst ||
      model.specification_version > kSpecificationLast) {
    return invalid("specification version {}: ML programs have {} to {}",
                   model.specification_version, kSpecificationFirst, kSpecificationLast);
  }
  EncodedModel encoded;
  google::protobuf::Arena arena;
  auto* to = google::protobuf::Arena::CreateMessage<proto::Model>(&arena);
  to->set_specification_version(model.specification_version);
  IMPETUS_CHECK(put_description(model, to->mutable_description()));
  Encoder encoder(model.specification_version, encoded.weights);
  IMPETUS_CHECK(encoder.program(model.program, to->mutable_ml_program()));
  const size_t bytes = to->ByteSizeLong();  // before protobuf is asked for what it would abort at
  if (bytes > kModelBytesMax) {
    return invalid("{} bytes of program without its weights, more than the {} that are read again",
                   bytes, kModelBytesMax);
  }
  encoded.model.resize(bytes);
  if (!to->SerializeToArray(encoded.model.data(), static_cast<int>(bytes))) {
    return error(ErrorCode::internal, "protobuf could not write {} bytes", bytes);
  }
  return encoded;
}

}  // namespace impetus::mil
