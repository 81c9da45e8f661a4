#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include <google/protobuf/arena.h>

#include "mil/codec_types.h"
#include "mil/program_codec.h"
#include "mil/proto/model.pb.h"

namespace impetus::mil {
namespace {

template <typename... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return error(ErrorCode::corrupt, format, std::forward<Args>(args)...);
}
template <typename... Args>
Error unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return error(ErrorCode::unsupported, format, std::forward<Args>(args)...);
}

// A name from the file as it may stand in a message.
std::string shown(std::string_view name) {
  constexpr size_t kMax = 80;
  std::string text(name.substr(0, kMax));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return name.size() > kMax ? text + "..." : text;
}

Result<std::string> text(const std::string& bytes, std::string_view what) {
  if (!is_utf8(bytes)) return corrupt("{} '{}' is not UTF-8", what, shown(bytes));
  return bytes;
}

// ---- The file's own tags, before protobuf allocates anything for them.

struct OtherKind {
  uint64_t field;
  std::string_view name;
};
constexpr std::array<OtherKind, 36> kOtherKinds{{
    {200, "a pipeline classifier"},
    {201, "a pipeline regressor"},
    {202, "a pipeline"},
    {300, "a GLM regressor"},
    {301, "a support vector regressor"},
    {302, "a tree ensemble regressor"},
    {303, "a neural network regressor"},
    {304, "a Bayesian probit regressor"},
    {400, "a GLM classifier"},
    {401, "a support vector classifier"},
    {402, "a tree ensemble classifier"},
    {403, "a neural network classifier"},
    {404, "a nearest-neighbours classifier"},
    {500, "a neural network"},
    {501, "an item similarity recommender"},
    {555, "a custom model"},
    {556, "a linked model"},
    {560, "a class confidence thresholding"},
    {600, "a one-hot encoder"},
    {601, "an imputer"},
    {602, "a feature vectorizer"},
    {603, "a dictionary vectorizer"},
    {604, "a scaler"},
    {606, "a categorical mapping"},
    {607, "a normalizer"},
    {609, "an array feature extractor"},
    {610, "a non-maximum suppression"},
    {900, "an identity"},
    {2000, "a text classifier"},
    {2001, "a word tagger"},
    {2002, "a vision feature print"},
    {2003, "a sound analysis preprocessing"},
    {2004, "a gazetteer"},
    {2005, "a word embedding"},
    {2006, "an audio feature print"},
    {3000, "a serialized (encrypted) model"},
}};

class Tags {
 public:
  explicit Tags(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool done() const { return at_ == bytes_.size(); }

  // The next field's number, its value skipped; nullopt where the bytes are no message.
  std::optional<uint64_t> next() {
    const auto tag = varint();
    if (!tag || *tag >> 3 == 0) return std::nullopt;
    bool there = false;
    switch (*tag & 7) {
      case 0:
        there = varint().has_value();
        break;
      case 1:
        there = skip(8);
        break;
      case 2: {
        const auto length = varint();
        there = length && skip(*length);
        break;
      }
      case 5:
        there = skip(4);
        break;
      default:
        break;  // groups: no proto3 file has them
    }
    return there ? std::optional(*tag >> 3) : std::nullopt;
  }

 private:
  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = std::to_integer<uint64_t>(bytes_[at_++]);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }
  bool skip(uint64_t count) {
    if (count > bytes_.size() - at_) return false;
    at_ += count;
    return true;
  }

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

constexpr uint64_t kVersionField = 1, kDescriptionField = 2, kProgramField = 502;

Result<void> check_kind(std::span<const std::byte> bytes) {
  Tags tags(bytes);
  std::array<int, 3> counts{};  // of the three fields above: protobuf would merge or overwrite
  std::string_view other;
  while (!tags.done()) {
    const auto field = tags.next();
    if (!field) {
      return corrupt(
          "not a Core ML model: these bytes are no protobuf message (encrypted or cut?)");
    }
    counts[0] += *field == kVersionField;
    counts[1] += *field == kDescriptionField;
    counts[2] += *field == kProgramField;
    const auto kind = std::ranges::find(kOtherKinds, *field, &OtherKind::field);
    if (kind != kOtherKinds.end()) other = kind->name;
  }
  if (!other.empty() && counts[2] == 0) {
    return unsupported(
        "{}: only ML programs are read; convert the model again with "
        "convert_to=\"mlprogram\"",
        other);
  }
  if (!other.empty()) return corrupt("an ML program and {} in one file", other);
  if (counts[2] == 0) return corrupt("not a Core ML model: it holds no program");
  if (std::ranges::any_of(counts, [](int count) { return count > 1; })) {
    return corrupt("version, description or program stands in the file more than once");
  }
  return {};
}

// ---- Types

class Decoder {
 public:
  explicit Decoder(const FindWeights& find_weights) : find_weights_(find_weights) {}

  Result<Program> program(const proto::Program& from);

 private:
  Result<Function> function(const proto::Function& from);
  Result<Block> block(const proto::Block& from, int depth);
  Result<Operation> operation(const proto::Operation& from, int depth);
  Result<std::vector<NamedType>> named_types(
      const google::protobuf::RepeatedPtrField<proto::NamedValueType>& from, std::string_view what);
  Result<int64_t> dimension(const proto::Dimension& from);
  Result<TensorType> tensor_type(const proto::TensorType& from);
  Result<ValueType> value_type(const proto::ValueType& from, int depth);
  Result<Value> value(const proto::Value& from, int depth);
  Result<Value> immediate(ValueType type, const proto::Value::ImmediateValue& from, int depth);
  Result<std::map<std::string, Value, std::less<>>> values(
      const google::protobuf::RepeatedPtrField<proto::ValueEntry>& from, std::string_view what);

  const FindWeights& find_weights_;
};

Result<int64_t> Decoder::dimension(const proto::Dimension& from) {
  switch (from.dimension_case()) {
    case proto::Dimension::kConstant:
      if (from.constant().size() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return corrupt("a dimension of {}", from.constant().size());
      }
      return static_cast<int64_t>(from.constant().size());
    case proto::Dimension::kUnknown:
      if (from.unknown().variadic()) return unsupported("a shape of variadic length");
      return kUnknown;
    default:
      return corrupt("a dimension without a length");
  }
}

Result<TensorType> Decoder::tensor_type(const proto::TensorType& from) {
  const auto dtype = data_type_from(from.data_type());
  if (!dtype) return unsupported("a tensor of the unknown data type {}", from.data_type());
  if (from.rank() < 0) return unsupported("a tensor of unknown rank");
  if (from.rank() != from.dimensions_size()) {
    return corrupt("a tensor of rank {} with {} dimensions", from.rank(), from.dimensions_size());
  }
  if (from.rank() > static_cast<int64_t>(kRankMax)) {
    return unsupported("a tensor of rank {}, more than {}", from.rank(), kRankMax);
  }
  TensorType type{.dtype = *dtype};
  for (const proto::Dimension& one : from.dimensions()) {
    IMPETUS_TRY(const int64_t length, dimension(one));
    type.shape.push_back(length);
  }
  return type;
}

Result<ValueType> Decoder::value_type(const proto::ValueType& from, int depth) {
  if (depth > kValueDepthMax) return corrupt("a type nested more than {} deep", kValueDepthMax);
  ValueType type;
  const auto add = [&](const proto::ValueType& one) -> Result<void> {
    IMPETUS_TRY(ValueType inner, value_type(one, depth + 1));
    type.elements.push_back(std::move(inner));
    return {};
  };
  switch (from.type_case()) {
    case proto::ValueType::kTensorType: {
      IMPETUS_TRY(type.tensor, tensor_type(from.tensor_type()));
      return type;
    }
    case proto::ValueType::kStateType: {
      const proto::ValueType& wrapped = from.state_type().wrapped_type();
      if (!wrapped.has_tensor_type()) return corrupt("a state of something else than a tensor");
      type.kind = ValueType::Kind::state;
      IMPETUS_TRY(type.tensor, tensor_type(wrapped.tensor_type()));
      return type;
    }
    case proto::ValueType::kListType:
      type.kind = ValueType::Kind::list;
      IMPETUS_CHECK(add(from.list_type().type()));
      if (from.list_type().has_length()) {
        IMPETUS_TRY(type.length, dimension(from.list_type().length()));
      }
      return type;
    case proto::ValueType::kTupleType:
      type.kind = ValueType::Kind::tuple;
      for (const proto::ValueType& one : from.tuple_type().types()) IMPETUS_CHECK(add(one));
      return type;
    case proto::ValueType::kDictionaryType:
      type.kind = ValueType::Kind::dictionary;
      IMPETUS_CHECK(add(from.dictionary_type().key_type()));
      IMPETUS_CHECK(add(from.dictionary_type().value_type()));
      return type;
    default:
      return corrupt("a type that says nothing");
  }
}

// ---- Values

template <typename To, typename From>
Result<Bytes> packed(const From& values, const TensorType& type) {
  std::vector<std::byte> bytes(static_cast<size_t>(values.size()) * sizeof(To));
  size_t at = 0;
  for (const auto one : values) {
    const auto value = static_cast<To>(one);
    if (static_cast<decltype(one)>(value) != one && one == one) {
      return corrupt("{} in a constant {}", one, type.to_string());
    }
    std::memcpy(bytes.data() + at, &value, sizeof(To));
    at += sizeof(To);
  }
  return Bytes::own(std::move(bytes));
}

// The bytes of a tensor of anything but strings, whatever field they stand in.
Result<Bytes> tensor_bytes(const proto::TensorValue& from, const TensorType& type) {
  const auto case_is = [&](proto::TensorValue::ValueCase field) {
    return from.value_case() == field || from.value_case() == proto::TensorValue::VALUE_NOT_SET;
  };
  switch (type.dtype) {
    case DataType::f32:
      if (case_is(proto::TensorValue::kFloats)) return packed<float>(from.floats().values(), type);
      break;
    case DataType::f64:
      if (case_is(proto::TensorValue::kDoubles)) {
        return packed<double>(from.doubles().values(), type);
      }
      break;
    case DataType::boolean:
      if (case_is(proto::TensorValue::kBools)) return packed<uint8_t>(from.bools().values(), type);
      break;
    case DataType::i16:
      if (case_is(proto::TensorValue::kInts)) return packed<int16_t>(from.ints().values(), type);
      break;
    case DataType::u16:
      if (case_is(proto::TensorValue::kInts)) return packed<uint16_t>(from.ints().values(), type);
      break;
    case DataType::i32:
      if (case_is(proto::TensorValue::kInts)) return packed<int32_t>(from.ints().values(), type);
      break;
    case DataType::i64:
      if (case_is(proto::TensorValue::kLongInts)) {
        return packed<int64_t>(from.long_ints().values(), type);
      }
      break;
    case DataType::u64:
      if (case_is(proto::TensorValue::kLongInts)) {
        return packed<int64_t>(from.long_ints().values(), type);
      }
      break;
    default:
      break;
  }
  if (case_is(proto::TensorValue::kBytes) && type.dtype != DataType::boolean) {
    const std::string& values = from.bytes().values();
    const auto bytes = std::as_bytes(std::span(values));
    return Bytes::own({bytes.begin(), bytes.end()});
  }
  return corrupt("a constant {} whose values stand in the field of another type", type.to_string());
}

Result<Value> Decoder::immediate(ValueType type, const proto::Value::ImmediateValue& from,
                                 int depth) {
  Value made{.type = std::move(type)};
  const auto add = [&](const proto::Value& one) -> Result<void> {
    IMPETUS_TRY(Value inner, value(one, depth + 1));
    made.elements.push_back(std::move(inner));
    return {};
  };
  const auto kind_is = [&](ValueType::Kind kind) -> Result<void> {
    if (made.type.kind == kind) return {};
    return corrupt("a constant {} whose value is of another kind", made.type.to_string());
  };
  switch (from.value_case()) {
    case proto::Value::ImmediateValue::kTensor: {
      IMPETUS_CHECK(kind_is(ValueType::Kind::tensor));
      const TensorType& tensor = made.type.tensor;
      const auto elements = tensor.elements();
      const auto bytes = tensor.bytes();
      if (!elements || !bytes) return corrupt("a constant {}", tensor.to_string());
      uint64_t there = 0;
      if (tensor.dtype == DataType::string) {
        for (const std::string& one : from.tensor().strings().values()) {
          IMPETUS_TRY(std::string string, text(one, "the string"));
          made.strings.push_back(std::move(string));
        }
        there = made.strings.size();
      } else {
        IMPETUS_TRY(made.bytes, tensor_bytes(from.tensor(), tensor));
        there = made.bytes.view.size();
      }
      const auto wanted =
          static_cast<uint64_t>(tensor.dtype == DataType::string ? *elements : *bytes);
      if (there != wanted) {
        return corrupt("a constant {} with {} {}, not {}", tensor.to_string(), there,
                       tensor.dtype == DataType::string ? "strings" : "bytes", wanted);
      }
      return made;
    }
    case proto::Value::ImmediateValue::kTuple:
      IMPETUS_CHECK(kind_is(ValueType::Kind::tuple));
      for (const proto::Value& one : from.tuple().values()) IMPETUS_CHECK(add(one));
      return made;
    case proto::Value::ImmediateValue::kList:
      IMPETUS_CHECK(kind_is(ValueType::Kind::list));
      for (const proto::Value& one : from.list().values()) IMPETUS_CHECK(add(one));
      return made;
    case proto::Value::ImmediateValue::kDictionary:
      IMPETUS_CHECK(kind_is(ValueType::Kind::dictionary));
      for (const auto& pair : from.dictionary().values()) {
        IMPETUS_CHECK(add(pair.key()));
        IMPETUS_CHECK(add(pair.value()));
      }
      return made;
    default:
      return corrupt("a constant {} without a value", made.type.to_string());
  }
}

Result<Value> Decoder::value(const proto::Value& from, int depth) {
  if (depth > kValueDepthMax) return corrupt("a constant nested more than {} deep", kValueDepthMax);
  IMPETUS_TRY(ValueType type, value_type(from.type(), 1));
  if (from.has_immediate_value()) return immediate(std::move(type), from.immediate_value(), depth);
  if (!from.has_blob_file_value())
    return corrupt("a constant {} without a value", type.to_string());
  const proto::Value::BlobFileValue& blob = from.blob_file_value();
  if (type.kind != ValueType::Kind::tensor) {
    return corrupt("a constant {} in the weight file", type.to_string());
  }
  IMPETUS_TRY(const std::string name, text(blob.file_name(), "the weight file"));
  IMPETUS_TRY(const BlobFile* weights, find_weights_(name));
  Value made{.type = std::move(type)};
  IMPETUS_TRY(made.bytes, weights->tensor(blob.offset(), made.type.tensor));
  made.blob_offset = static_cast<int64_t>(blob.offset());
  return made;
}

Result<std::map<std::string, Value, std::less<>>> Decoder::values(
    const google::protobuf::RepeatedPtrField<proto::ValueEntry>& from, std::string_view what) {
  std::map<std::string, Value, std::less<>> made;
  for (const proto::ValueEntry& entry : from) {
    IMPETUS_TRY(std::string key, text(entry.key(), what));
    auto one = value(entry.value(), 1);
    if (!one.ok()) return std::move(one).error().within(fmt::format("{} {}", what, shown(key)));
    if (!made.emplace(key, std::move(*one)).second) {
      return corrupt("{} {} comes twice", what, shown(key));
    }
  }
  return made;
}

// ---- Operations, blocks, functions

Result<std::vector<NamedType>> Decoder::named_types(
    const google::protobuf::RepeatedPtrField<proto::NamedValueType>& from, std::string_view what) {
  std::vector<NamedType> made;
  for (const proto::NamedValueType& one : from) {
    IMPETUS_TRY(std::string name, text(one.name(), what));
    auto type = value_type(one.type(), 1);
    if (!type.ok()) return std::move(type).error().within(fmt::format("{} {}", what, shown(name)));
    made.push_back({std::move(name), std::move(*type)});
  }
  return made;
}

Result<Operation> Decoder::operation(const proto::Operation& from, int depth) {
  Operation made;
  IMPETUS_TRY(made.type, text(from.type(), "the operation type"));
  IMPETUS_TRY(made.outputs, named_types(from.outputs(), "result"));
  for (const proto::ArgumentEntry& entry : from.inputs()) {
    IMPETUS_TRY(const std::string parameter, text(entry.key(), "parameter"));
    Argument argument;
    for (const proto::Argument::Binding& binding : entry.value().arguments()) {
      if (binding.has_name()) {
        IMPETUS_TRY(std::string name, text(binding.name(), "the argument"));
        argument.emplace_back(std::move(name));
      } else if (binding.has_value()) {
        auto constant = value(binding.value(), 1);
        if (!constant.ok()) {
          return std::move(constant).error().within(fmt::format("parameter {}", shown(parameter)));
        }
        argument.emplace_back(std::move(*constant));
      } else {
        return corrupt("parameter {} is bound to nothing", shown(parameter));
      }
    }
    if (!made.inputs.emplace(parameter, std::move(argument)).second) {
      return corrupt("parameter {} comes twice", shown(parameter));
    }
  }
  IMPETUS_TRY(made.attributes, values(from.attributes(), "attribute"));
  for (const proto::Block& one : from.blocks()) {
    IMPETUS_TRY(Block inner, block(one, depth + 1));
    made.blocks.push_back(std::move(inner));
  }
  return made;
}

Result<Block> Decoder::block(const proto::Block& from, int depth) {
  if (depth > kBlockDepthMax) return corrupt("blocks nested more than {} deep", kBlockDepthMax);
  Block made;
  IMPETUS_TRY(made.inputs, named_types(from.inputs(), "block input"));
  for (const std::string& one : from.outputs()) {
    IMPETUS_TRY(std::string name, text(one, "block output"));
    made.outputs.push_back(std::move(name));
  }
  IMPETUS_TRY(made.attributes, values(from.attributes(), "block attribute"));
  for (const proto::Operation& one : from.operations()) {
    auto inner = operation(one, depth);
    if (!inner.ok()) {
      const std::string& result = one.outputs_size() > 0 ? one.outputs(0).name() : one.type();
      return std::move(inner).error().within(
          fmt::format("operation {} ({})", shown(result), shown(one.type())));
    }
    made.operations.push_back(std::move(*inner));
  }
  return made;
}

Result<Function> Decoder::function(const proto::Function& from) {
  Function made;
  IMPETUS_TRY(made.inputs, named_types(from.inputs(), "input"));
  IMPETUS_TRY(made.opset, text(from.opset(), "the opset"));
  IMPETUS_TRY(made.attributes, values(from.attributes(), "function attribute"));
  for (const proto::BlockEntry& entry : from.block_specializations()) {
    IMPETUS_TRY(std::string opset, text(entry.key(), "the opset"));
    IMPETUS_TRY(Block inner, block(entry.value(), 1));
    if (!made.blocks.emplace(opset, std::move(inner)).second) {
      return corrupt("two blocks for opset {}", shown(opset));
    }
  }
  return made;
}

Result<Program> Decoder::program(const proto::Program& from) {
  Program made;
  made.version = from.version();
  if (made.version != 1) return unsupported("an ML program of version {}, not 1", made.version);
  IMPETUS_TRY(made.attributes, values(from.attributes(), "program attribute"));
  for (const proto::FunctionEntry& entry : from.functions()) {
    IMPETUS_TRY(std::string name, text(entry.key(), "the function"));
    auto inner = function(entry.value());
    if (!inner.ok()) {
      return std::move(inner).error().within(fmt::format("function {}", shown(name)));
    }
    if (!made.functions.emplace(name, std::move(*inner)).second) {
      return corrupt("two functions called {}", shown(name));
    }
  }
  return made;
}

// ---- The description

Result<int64_t> length(int64_t value) {
  if (value < 0) return corrupt("a dimension of {}", value);
  return value;
}

Result<std::pair<int64_t, int64_t>> range(const proto::SizeRange& from) {
  if (from.lower_bound() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return corrupt("a range from {}", from.lower_bound());
  }
  const auto lower = static_cast<int64_t>(from.lower_bound());
  const int64_t upper = from.upper_bound() < 0 ? kUnknown : from.upper_bound();
  if (upper != kUnknown && upper < lower) return corrupt("a range from {} to {}", lower, upper);
  return std::pair{lower, upper};
}

Result<std::vector<int64_t>> shape(const google::protobuf::RepeatedField<int64_t>& from) {
  if (from.size() > static_cast<int>(kRankMax)) {
    return unsupported("a shape of {} dimensions, more than {}", from.size(), kRankMax);
  }
  std::vector<int64_t> made;
  for (const int64_t one : from) {
    IMPETUS_TRY(const int64_t checked, length(one));
    made.push_back(checked);
  }
  return made;
}

Result<void> array_type(const proto::ArrayFeatureType& from, Feature& to) {
  const auto dtype = array_type_from(from.data_type());
  if (!dtype) return unsupported("an array of the unknown data type {}", from.data_type());
  to.type.dtype = *dtype;
  IMPETUS_TRY(to.type.shape, shape(from.shape()));
  for (const auto& one : from.enumerated_shapes().shapes()) {
    IMPETUS_TRY(std::vector<int64_t> dims, shape(one.shape()));
    to.enumerated.push_back(std::move(dims));
  }
  if (from.shape_range().size_ranges_size() > static_cast<int>(kRankMax)) {
    return unsupported("{} ranges, more than {}", from.shape_range().size_ranges_size(), kRankMax);
  }
  for (const proto::SizeRange& one : from.shape_range().size_ranges()) {
    IMPETUS_TRY(const auto bounds, range(one));
    to.ranges.push_back(bounds);
  }
  return {};
}

Result<void> image_type(const proto::ImageFeatureType& from, Feature& to) {
  const auto color = color_from(from.color_space());
  if (!color) return unsupported("an image of the unknown colour space {}", from.color_space());
  to.color = *color;
  const int64_t channels = channels_of(*color);
  IMPETUS_TRY(const int64_t height, length(from.height()));
  IMPETUS_TRY(const int64_t width, length(from.width()));
  to.type = {type_of(*color), {1, channels, height, width}};
  for (const auto& size : from.enumerated_sizes().sizes()) {
    IMPETUS_TRY(const int64_t one_height, length(static_cast<int64_t>(size.height())));
    IMPETUS_TRY(const int64_t one_width, length(static_cast<int64_t>(size.width())));
    to.enumerated.push_back({1, channels, one_height, one_width});
  }
  if (from.has_image_size_range()) {
    IMPETUS_TRY(const auto heights, range(from.image_size_range().height_range()));
    IMPETUS_TRY(const auto widths, range(from.image_size_range().width_range()));
    to.ranges = {{1, 1}, {channels, channels}, heights, widths};
  }
  return {};
}

Result<Feature> feature(const proto::FeatureDescription& from) {
  Feature made;
  IMPETUS_TRY(made.name, text(from.name(), "the feature"));
  made.optional = from.type().is_optional();
  Result<void> type;
  switch (from.type().type_case()) {
    case proto::FeatureType::kMultiArrayType:
      type = array_type(from.type().multi_array_type(), made);
      break;
    case proto::FeatureType::kStateType:
      made.kind = Feature::Kind::state;
      type = array_type(from.type().state_type().array_type(), made);
      break;
    case proto::FeatureType::kImageType:
      made.kind = Feature::Kind::image;
      type = image_type(from.type().image_type(), made);
      break;
    case proto::FeatureType::TYPE_NOT_SET:
      type = corrupt("no type");
      break;
    default:
      made.kind = Feature::Kind::other;
      break;
  }
  if (!type.ok()) {
    return Error(type.error()).within(fmt::format("feature {}", shown(made.name)));
  }
  return made;
}

Result<std::vector<Feature>> features(
    const google::protobuf::RepeatedPtrField<proto::FeatureDescription>& from) {
  std::vector<Feature> made;
  for (const proto::FeatureDescription& one : from) {
    IMPETUS_TRY(Feature inner, feature(one));
    made.push_back(std::move(inner));
  }
  return made;
}

// Of the model itself, or of one of its functions: the fields are called the same.
template <typename Description>
Result<FunctionDescription> described(std::string name, const Description& from) {
  FunctionDescription made;
  made.name = std::move(name);
  IMPETUS_TRY(made.inputs, features(from.input()));
  IMPETUS_TRY(made.outputs, features(from.output()));
  IMPETUS_TRY(made.states, features(from.state()));
  return made;
}

Result<void> description(const proto::ModelDescription& from, Model& to) {
  if (from.functions_size() == 0) {
    IMPETUS_TRY(FunctionDescription only, described("main", from));
    to.functions.push_back(std::move(only));
    to.default_function = "main";
    return {};
  }
  if (from.input_size() + from.output_size() + from.state_size() > 0) {
    return corrupt("features both of the model and of its functions");
  }
  std::set<std::string, std::less<>> names;
  for (const proto::FunctionDescription& one : from.functions()) {
    IMPETUS_TRY(std::string name, text(one.name(), "the function"));
    auto made = described(name, one);
    if (!made.ok()) {
      return std::move(made).error().within(fmt::format("function {}", shown(name)));
    }
    if (!names.insert(name).second) {
      return corrupt("function {} is described twice", shown(name));
    }
    to.functions.push_back(std::move(*made));
  }
  IMPETUS_TRY(to.default_function, text(from.default_function_name(), "the default function"));
  if (!names.contains(to.default_function)) {
    return corrupt("the default function '{}' is none of those described",
                   shown(to.default_function));
  }
  return {};
}

Result<Metadata> metadata(const proto::Metadata& from) {
  Metadata made;
  IMPETUS_TRY(made.description, text(from.short_description(), "the description"));
  IMPETUS_TRY(made.version, text(from.version_string(), "the version"));
  IMPETUS_TRY(made.author, text(from.author(), "the author"));
  IMPETUS_TRY(made.license, text(from.license(), "the license"));
  for (const proto::StringEntry& entry : from.user_defined()) {
    IMPETUS_TRY(std::string key, text(entry.key(), "the key"));
    IMPETUS_TRY(std::string value, text(entry.value(), "the value"));
    if (!made.user.emplace(key, std::move(value)).second) {
      return corrupt("metadata {} comes twice", shown(key));
    }
  }
  return made;
}

}  // namespace

Result<Model> decode_model(std::span<const std::byte> bytes, const FindWeights& find_weights) {
  IMPETUS_CHECK(check_kind(bytes));
  if (bytes.size() > kModelBytesMax) {
    return unsupported("{} bytes of program without its weights, more than the {} that are read",
                       bytes.size(), kModelBytesMax);
  }
  google::protobuf::Arena arena;
  auto* from = google::protobuf::Arena::CreateMessage<proto::Model>(&arena);
  if (!from->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return corrupt("not a Core ML model: broken protobuf, or nested too deep");
  }
  Model model;
  model.specification_version = from->specification_version();
  if (model.specification_version > kSpecificationLast) {
    return unsupported("specification version {}; this build reads up to {}",
                       model.specification_version, kSpecificationLast);
  }
  if (model.specification_version < kSpecificationFirst) {
    return corrupt("an ML program of specification version {}; they begin with {}",
                   model.specification_version, kSpecificationFirst);
  }
  if (auto done = description(from->description(), model); !done.ok()) {
    return Error(done.error()).within("description");
  }
  IMPETUS_TRY(model.metadata, metadata(from->description().metadata()));
  IMPETUS_TRY(model.program, Decoder(find_weights).program(from->ml_program()));
  return model;
}

}  // namespace impetus::mil
