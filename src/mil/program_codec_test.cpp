#include "mil/program_codec.h"

#include <array>
#include <chrono>
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "mil/codec_test_support.h"
#include "mil/package.h"
#include "tests/support/protobuf_writer.h"

namespace impetus::mil {
namespace {

using impetus::testing::field;
using impetus::testing::number_field;
using testing::constant;
using testing::conv_model;
using testing::difference;
using testing::f16_values;
using testing::two_function_model;

// ---- Random models: anything that the format can carry, whether or not it makes sense.

class RandomModel {
 public:
  explicit RandomModel(uint32_t seed) : random_(seed) {}

  Model model() {
    Model made;
    made.specification_version = 6 + pick(5);
    made.metadata = {.description = text(), .version = text(), .author = text(), .license = text()};
    for (int i = pick(3); i > 0; --i) made.metadata.user[text()] = text();
    const bool named = made.specification_version >= 9 && pick(2) == 0;
    for (int i = named ? 1 + pick(3) : 1; i > 0; --i) {
      const std::string name = named ? fmt::format("f{}", i) : "main";
      made.functions.push_back({name, features(false), features(false), features(true)});
      made.program.functions[name] = function();
    }
    made.default_function = made.functions.back().name;
    made.program.attributes = values();
    return made;
  }

 private:
  int pick(int count) { return static_cast<int>(random_() % static_cast<uint32_t>(count)); }
  std::string text() {
    static constexpr std::array kTexts = {"", "a", "name_1", "ä€😀", "two words"};
    return kTexts[static_cast<size_t>(pick(kTexts.size()))] + std::to_string(pick(4));
  }
  std::vector<int64_t> shape(bool fixed, int most = 5) {
    std::vector<int64_t> made;
    for (int i = pick(4); i > 0; --i)
      made.push_back(!fixed && pick(4) == 0 ? kUnknown : pick(most));
    return made;
  }
  DataType dtype() { return static_cast<DataType>(pick(static_cast<int>(DataType::u64) + 1)); }

  ValueType type(bool fixed, int depth = 0) {
    ValueType made;
    made.kind = depth > 2 ? ValueType::Kind::tensor : static_cast<ValueType::Kind>(pick(5));
    const auto inner = [&] { return type(fixed, depth + 1); };
    switch (made.kind) {
      case ValueType::Kind::tensor:
      case ValueType::Kind::state:
        made.tensor = {dtype(), shape(fixed)};
        break;
      case ValueType::Kind::list:
        made.elements = {inner()};
        made.length = pick(2) == 0 ? kUnknown : pick(9);
        break;
      case ValueType::Kind::tuple:
        for (int i = pick(3); i > 0; --i) made.elements.push_back(inner());
        break;
      case ValueType::Kind::dictionary:
        made.elements = {inner(), inner()};
        break;
    }
    return made;
  }

  Value value(int depth = 0) {
    Value made{.type = type(true)};
    if (made.type.kind == ValueType::Kind::state) made.type.kind = ValueType::Kind::tensor;
    if (made.type.kind != ValueType::Kind::tensor) {
      const int count = depth > 2 ? 0 : pick(3) * 2;
      for (int i = 0; i < count; ++i) made.elements.push_back(value(depth + 1));
      return made;
    }
    const TensorType& tensor = made.type.tensor;
    if (tensor.dtype == DataType::string) {
      for (int64_t i = 0; i < *tensor.elements(); ++i) made.strings.push_back(text());
      return made;
    }
    std::vector<std::byte> bytes(static_cast<size_t>(*tensor.bytes()));
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(tensor.dtype == DataType::boolean ? pick(2) : pick(256));
    }
    made.bytes = Bytes::own(std::move(bytes));
    return made;
  }

  std::map<std::string, Value, std::less<>> values() {
    std::map<std::string, Value, std::less<>> made;
    for (int i = pick(3); i > 0; --i) made[text()] = value();
    return made;
  }
  std::vector<NamedType> types() {
    std::vector<NamedType> made;
    for (int i = pick(3); i > 0; --i) made.push_back({text(), type(false)});
    return made;
  }

  Operation operation(int depth) {
    static constexpr std::array kTypes = {"const", "constexpr_cast", "add", "cond"};
    Operation made;
    made.type = kTypes[static_cast<size_t>(pick(kTypes.size()))];
    for (int i = pick(3); i > 0; --i) {
      Argument& argument = made.inputs[text()];
      for (int j = pick(3); j > 0; --j) {
        argument.push_back(pick(2) == 0 ? Binding(text()) : Binding(value()));
      }
    }
    made.outputs = types();
    if (depth < 3 && pick(4) == 0) made.blocks.push_back(block(depth + 1));
    made.attributes = values();
    return made;
  }
  Block block(int depth) {
    Block made;
    made.inputs = types();
    for (int i = pick(3); i > 0; --i) made.outputs.push_back(text());
    for (int i = pick(5); i > 0; --i) made.operations.push_back(operation(depth));
    made.attributes = values();
    return made;
  }
  Function function() {
    Function made;
    made.inputs = types();
    made.opset = text();
    for (int i = pick(3); i > 0; --i) made.blocks[text()] = block(1);
    made.attributes = values();
    return made;
  }

  std::pair<int64_t, int64_t> range() {
    const int lower = pick(4);
    return {lower, pick(2) == 0 ? kUnknown : lower + pick(4)};
  }
  std::vector<Feature> features(bool states) {
    static constexpr std::array kTypes = {DataType::f16, DataType::f32, DataType::f64, DataType::i8,
                                          DataType::i32};
    std::vector<Feature> made;
    for (int i = pick(3); i > 0; --i) {
      Feature one;
      one.name = text();
      one.optional = pick(2) == 0;
      const int flexible = pick(3);
      if (states || pick(2) == 0) {
        one.kind = states ? Feature::Kind::state : Feature::Kind::array;
        one.type = {kTypes[static_cast<size_t>(pick(kTypes.size()))], shape(true)};
        for (int j = pick(3); flexible == 1 && j > 0; --j) one.enumerated.push_back(shape(true));
        for (int j = pick(3); flexible == 2 && j > 0; --j) one.ranges.push_back(range());
      } else {
        one.kind = Feature::Kind::image;
        one.color = static_cast<Feature::Color>(1 + pick(4));
        const bool colored = one.color == Feature::Color::rgb || one.color == Feature::Color::bgr;
        const int64_t channels = colored ? 3 : 1;
        one.type.dtype = one.color == Feature::Color::grayscale_f16 ? DataType::f16 : DataType::u8;
        one.type.shape = {1, channels, pick(9), pick(9)};
        for (int j = pick(3); flexible == 1 && j > 0; --j) {
          one.enumerated.push_back({1, channels, pick(9), pick(9)});
        }
        if (flexible == 2) one.ranges = {{1, 1}, {channels, channels}, range(), range()};
      }
      made.push_back(std::move(one));
    }
    return made;
  }

  std::mt19937 random_;
};

Result<Package> parsed(const PackageBytes& bytes) {
  return parse_package(bytes.model, bytes.weights);
}

TEST(ProgramCodec, WhatIsWrittenIsRead) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const Model model = RandomModel(seed).model();
    const auto bytes = serialize(model);
    ASSERT_TRUE(bytes.ok()) << seed << ": " << bytes.error().message;
    const auto package = parsed(*bytes);
    ASSERT_TRUE(package.ok()) << seed << ": " << package.error().message;
    ASSERT_EQ(difference(package->model, model), "") << seed;
    const auto again = serialize(package->model);
    ASSERT_TRUE(again.ok());
    ASSERT_EQ(again->model, bytes->model) << seed;
    ASSERT_EQ(again->weights, bytes->weights) << seed;
  }
}

// A change here changes what every user's package is called by, and what caches know it by.
TEST(ProgramCodec, SameBytesOnEveryMachine) {
  const auto fingerprint = [](const std::vector<std::byte>& bytes) {  // FNV-1a
    uint64_t hash = 14695981039346656037u;
    for (const std::byte byte : bytes) {
      hash = (hash ^ std::to_integer<uint64_t>(byte)) * 1099511628211u;
    }
    return hash;
  };
  const auto bytes = serialize(conv_model());
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(fingerprint(bytes->model), 736202987212886173u) << bytes->model.size();
  EXPECT_EQ(fingerprint(bytes->weights), 16037083923021089836u) << bytes->weights.size();
}

TEST(ProgramCodec, FunctionsShareTheirWeights) {
  const auto one = serialize(conv_model());
  const auto two = serialize(two_function_model());
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->weights, two->weights);
  const auto package = parsed(*two);
  ASSERT_TRUE(package.ok()) << package.error().message;
  const auto weight_of = [&](const std::string& function) {
    return package->model.program.functions.at(function).block()->operations[0].attributes.at(
        "val");
  };
  EXPECT_EQ(weight_of("length_16").blob_offset, 64);
  EXPECT_EQ(weight_of("length_32").blob_offset, 64);
}

Model model_with(Value value, int specification_version, const std::string& type = "const") {
  Model model = conv_model();
  model.specification_version = specification_version;
  Operation operation = constant("c", std::move(value));
  operation.type = type;
  model.program.functions["main"].blocks["CoreML6"].operations = {operation};
  return model;
}

bool stands_in_weights(Value value, int specification_version, const std::string& type = "const") {
  const auto bytes = serialize(model_with(std::move(value), specification_version, type));
  EXPECT_TRUE(bytes.ok());
  return bytes.ok() && !bytes->weights.empty();
}

TEST(ProgramCodec, LargeConstantsGoToTheWeights) {
  EXPECT_FALSE(stands_in_weights(f16_values({9}, 1), 7));
  EXPECT_TRUE(stands_in_weights(f16_values({10}, 1), 7));
  EXPECT_TRUE(stands_in_weights(f16_values({10}, 1), 7, "constexpr_cast"));
  EXPECT_FALSE(stands_in_weights(f16_values({10}, 1), 7, "add"));
  // Integers wider than a byte stand there only since macOS 15, bools never.
  const Value ints = Value::ints(std::vector<int32_t>(10, 1));
  EXPECT_FALSE(stands_in_weights(ints, 8));
  EXPECT_TRUE(stands_in_weights(ints, 9));
  const Value bools = Value::bools({true, true, true, true, true, true, true, true, true, true});
  EXPECT_FALSE(stands_in_weights(bools, 9));
}

TEST(ProgramCodec, RefusesToWriteWhatTheFormatCannotCarry) {
  const auto refuses = [](const std::function<void(Model&)>& change, const std::string& says) {
    Model model = conv_model();
    change(model);
    const auto bytes = serialize(model);
    ASSERT_FALSE(bytes.ok()) << says;
    EXPECT_EQ(bytes.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(bytes.error().message.find(says), std::string::npos) << bytes.error().message;
  };
  refuses([](Model& m) { m.specification_version = 5; }, "specification version 5");
  refuses([](Model& m) { m.specification_version = 11; }, "specification version 11");
  refuses([](Model& m) { m.program.version = 2; }, "version 2");
  refuses([](Model& m) { m.functions[0].name = "other"; }, "named functions need");
  refuses([](Model& m) { m.functions[0].inputs[0].type.dtype = DataType::u4; }, "feature x");
  refuses([](Model& m) { m.functions[0].inputs[0].kind = Feature::Kind::other; }, "feature x");
  refuses([](Model& m) { m.functions[0].inputs[0].type.shape = {-1}; }, "a dimension of -1");
  refuses([](Model& m) { m.metadata.author = "\xff"; }, "UTF-8");
  const auto change_value = [](Model& m, const std::function<void(Value&)>& change) {
    change(m.program.functions["main"].blocks["CoreML6"].operations[0].attributes.at("val"));
  };
  refuses([&](Model& m) { change_value(m, [](Value& v) { v.bytes = {}; }); },
          "function main: operation weight (const): attribute val: a constant fp16");
  refuses([&](Model& m) { change_value(m, [](Value& v) { v.type.tensor.shape = {kUnknown}; }); },
          "a constant fp16[?]");
  refuses([&](Model& m) { change_value(m, [](Value& v) { v.type.tensor.shape.assign(17, 1); }); },
          "rank 17");
}

TEST(ProgramCodec, ProgramsPastTheLimitAreRefused) {
  const size_t too_many = (size_t{64} << 20) + 1;
  const TensorType bools{DataType::boolean, {static_cast<int64_t>(too_many)}};
  const auto written =
      serialize(model_with(Value::tensor(bools, Bytes::own(std::vector<std::byte>(too_many))), 7));
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().code, ErrorCode::invalid_argument) << written.error().message;
  const std::string bytes = number_field(1, 7) + field(502, std::string(too_many, '\0'));
  const auto read = parse_package(std::as_bytes(std::span(bytes)), {});
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::unsupported) << read.error().message;
}

// ---- Bytes that no writer makes

constexpr int kSpecification = 1, kDescription = 2, kProgram = 502;

std::string model_bytes(const std::string& program, int specification = 7,
                        const std::string& description = "") {
  return number_field(kSpecification, static_cast<uint64_t>(specification)) +
         field(kDescription, description) + field(kProgram, number_field(1, 1) + program);
}

Result<Package> parse_text(const std::string& model) {
  return parse_package(std::as_bytes(std::span(model)), {});
}

void expect_refused(const std::string& model, ErrorCode code, const std::string& says) {
  const auto package = parse_text(model);
  ASSERT_FALSE(package.ok()) << says;
  EXPECT_EQ(package.error().code, code) << package.error().message;
  EXPECT_NE(package.error().message.find(says), std::string::npos) << package.error().message;
}

TEST(HostileProgram, KindsOfModels) {
  EXPECT_TRUE(parse_text(model_bytes("")).ok());
  expect_refused("", ErrorCode::corrupt, "holds no program");
  expect_refused("not protobuf at all", ErrorCode::corrupt, "no protobuf message");
  const std::string head = number_field(1, 4) + field(2, "");
  expect_refused(head + field(500, ""), ErrorCode::unsupported, "a neural network");
  expect_refused(head + field(202, ""), ErrorCode::unsupported, "a pipeline");
  expect_refused(head + field(402, ""), ErrorCode::unsupported, "a tree ensemble classifier");
  expect_refused(head + field(3000, "x"), ErrorCode::unsupported, "encrypted");
  expect_refused(model_bytes("") + field(500, ""), ErrorCode::corrupt, "in one file");
  expect_refused(model_bytes("") + field(502, ""), ErrorCode::corrupt, "more than once");
  expect_refused(model_bytes("") + number_field(1, 8), ErrorCode::corrupt, "more than once");
}

TEST(HostileProgram, Versions) {
  expect_refused(model_bytes("", 11), ErrorCode::unsupported, "specification version 11");
  expect_refused(model_bytes("", 5), ErrorCode::corrupt, "specification version 5");
  expect_refused(number_field(1, 7) + field(502, number_field(1, 2)), ErrorCode::unsupported,
                 "version 2");
}

std::string tensor_type(uint64_t dtype, uint64_t rank, const std::vector<uint64_t>& dims) {
  std::string type = number_field(1, dtype) + number_field(2, rank);
  for (const uint64_t dim : dims) type += field(3, field(1, number_field(1, dim)));
  return field(1, type);
}
std::string in_program_attribute(const std::string& value) {
  return model_bytes(field(4, field(1, "a") + field(2, value)));
}
std::string with_type(const std::string& type) {
  return model_bytes(
      field(2, field(1, "main") + field(2, field(1, field(1, "x") + field(2, type)))));
}

TEST(HostileProgram, Types) {
  EXPECT_TRUE(parse_text(with_type(tensor_type(10, 2, {1, 2}))).ok());
  expect_refused(with_type(""), ErrorCode::corrupt, "function main: input x: a type that says");
  expect_refused(with_type(tensor_type(0, 0, {})), ErrorCode::unsupported, "data type 0");
  expect_refused(with_type(tensor_type(99, 0, {})), ErrorCode::unsupported, "data type 99");
  expect_refused(with_type(tensor_type(10, 3, {1})), ErrorCode::corrupt, "rank 3 with 1");
  expect_refused(with_type(tensor_type(10, ~uint64_t{0}, {})), ErrorCode::unsupported,
                 "unknown rank");
  expect_refused(with_type(tensor_type(10, 100, std::vector<uint64_t>(100, 1))),
                 ErrorCode::unsupported, "rank 100");
  expect_refused(with_type(tensor_type(10, 1, {~uint64_t{0}})), ErrorCode::corrupt, "a dimension");
  expect_refused(with_type(field(1, number_field(1, 10) + number_field(2, 1) + field(3, ""))),
                 ErrorCode::corrupt, "without a length");
  const std::string variadic = field(3, field(2, number_field(1, 1)));
  expect_refused(with_type(field(1, number_field(1, 10) + number_field(2, 1) + variadic)),
                 ErrorCode::unsupported, "variadic");
}

TEST(HostileProgram, Depth) {
  std::string type = tensor_type(10, 0, {});
  for (int i = 0; i < 20; ++i) type = field(3, field(1, type));
  expect_refused(with_type(type), ErrorCode::corrupt, "nested more than 16 deep");
  for (int i = 0; i < 200; ++i) type = field(3, field(1, type));
  expect_refused(with_type(type), ErrorCode::corrupt, "nested too deep");

  const auto function_of = [](const std::string& block) {
    return model_bytes(
        field(2, field(1, "main") + field(2, field(3, field(1, "CoreML6") + field(2, block)))));
  };
  std::string block;
  for (int i = 0; i < 15; ++i) block = field(3, field(1, "cond") + field(4, block));
  EXPECT_TRUE(parse_text(function_of(block)).ok())
      << parse_text(function_of(block)).error().message;
  block = field(3, field(1, "cond") + field(4, block));
  expect_refused(function_of(block), ErrorCode::corrupt, "blocks nested more than 16 deep");

  std::string value =
      field(2, tensor_type(23, 0, {})) + field(3, field(1, field(2, field(1, "\1"))));
  EXPECT_TRUE(parse_text(in_program_attribute(value)).ok());
  for (int i = 0; i < 17; ++i) value = field(2, field(3, "")) + field(3, field(2, field(1, value)));
  expect_refused(in_program_attribute(value), ErrorCode::corrupt, "nested more than 16 deep");
}

TEST(HostileProgram, Values) {
  const auto constant_of = [](const std::string& type, const std::string& tensor) {
    return in_program_attribute(field(2, type) + field(3, field(1, tensor)));
  };
  const std::string ints = field(2, field(1, std::string("\1\2", 2)));
  EXPECT_TRUE(parse_text(constant_of(tensor_type(23, 1, {2}), ints)).ok());
  expect_refused(constant_of(tensor_type(23, 1, {3}), ints), ErrorCode::corrupt, "8 bytes, not 12");
  expect_refused(constant_of(tensor_type(23, 2, {1u << 31, uint64_t{1} << 40}), ints),
                 ErrorCode::corrupt, "a constant int32");
  expect_refused(constant_of(tensor_type(11, 1, {2}), ints), ErrorCode::corrupt,
                 "field of another type");
  expect_refused(constant_of(tensor_type(22, 0, {}), field(2, field(1, "\xff\xff\x7f"))),
                 ErrorCode::corrupt, "in a constant int16");
  expect_refused(constant_of(tensor_type(10, 1, {2}), field(7, field(1, "abc"))),
                 ErrorCode::corrupt, "3 bytes, not 4");
  expect_refused(constant_of(tensor_type(2, 0, {}), field(4, field(1, "\xff"))), ErrorCode::corrupt,
                 "not UTF-8");
  expect_refused(in_program_attribute(field(2, tensor_type(23, 0, {}))), ErrorCode::corrupt,
                 "without a value");
  expect_refused(in_program_attribute(field(2, tensor_type(23, 0, {})) + field(3, field(2, ""))),
                 ErrorCode::corrupt, "of another kind");
  const std::string twice =
      field(4, field(1, "a") +
                   field(2, field(2, tensor_type(2, 1, {0})) + field(3, field(1, field(4, "")))));
  EXPECT_TRUE(parse_text(model_bytes(twice)).ok())
      << parse_text(model_bytes(twice)).error().message;
  expect_refused(model_bytes(twice + twice), ErrorCode::corrupt, "comes twice");
}

TEST(HostileProgram, WeightFiles) {
  const auto blob_of = [](const std::string& name) {
    return in_program_attribute(field(2, tensor_type(10, 1, {2})) +
                                field(5, field(1, name) + number_field(2, 64)));
  };
  expect_refused(blob_of("@model_path/weights/weight.bin"), ErrorCode::corrupt, "header");
  expect_refused(blob_of("/etc/passwd"), ErrorCode::not_found, "/etc/passwd");
  expect_refused(blob_of("@model_path/../weight.bin"), ErrorCode::not_found, "..");
}

TEST(HostileProgram, Descriptions) {
  const auto described = [](const std::string& type) {
    return model_bytes("", 9, field(1, field(1, "x") + field(3, type)));
  };
  const std::string f16 = number_field(2, 65552);
  EXPECT_TRUE(parse_text(described(field(5, f16))).ok());
  expect_refused(described(""), ErrorCode::corrupt, "description: feature x: no type");
  expect_refused(described(field(5, number_field(2, 7))), ErrorCode::unsupported, "data type 7");
  expect_refused(described(field(5, f16 + number_field(1, ~uint64_t{0}))), ErrorCode::corrupt,
                 "a dimension of -1");
  expect_refused(described(field(5, f16 + field(1, std::string(17, '\1')))), ErrorCode::unsupported,
                 "17 dimensions");
  const auto range = [&](uint64_t lower, uint64_t upper) {
    return field(5, f16 + field(31, field(1, number_field(1, lower) + number_field(2, upper))));
  };
  EXPECT_TRUE(parse_text(described(range(1, ~uint64_t{0}))).ok());
  expect_refused(described(range(4, 3)), ErrorCode::corrupt, "a range from 4 to 3");
  expect_refused(described(range(~uint64_t{0}, 3)), ErrorCode::corrupt, "a range from");
  expect_refused(described(field(4, number_field(3, 99))), ErrorCode::unsupported, "colour space");

  const auto functions = [](const std::string& more) {
    return model_bytes("", 9, field(20, field(1, "f")) + more);
  };
  EXPECT_TRUE(parse_text(functions(field(21, "f"))).ok());
  expect_refused(functions(""), ErrorCode::corrupt, "default function");
  expect_refused(functions(field(21, "g")), ErrorCode::corrupt, "default function");
  expect_refused(functions(field(21, "f") + field(20, field(1, "f"))), ErrorCode::corrupt, "twice");
  expect_refused(functions(field(21, "f") + field(1, field(1, "x"))), ErrorCode::corrupt,
                 "both of the model and of its functions");
}

// Every prefix, and every byte changed in several ways: an answer or an error, and what is read can
// be written.
// Not in the square of their number.
TEST(HostileProgram, VeryManyDescribedFunctions) {
  Model model;
  model.specification_version = 9;
  for (int i = 0; i < 300'000; ++i) model.functions.push_back({.name = fmt::format("f{}", i)});
  model.default_function = model.functions.back().name;
  const auto start = std::chrono::steady_clock::now();
  const auto encoded = encode_model(model);
  ASSERT_TRUE(encoded.ok()) << encoded.error().message;
  const auto decoded = decode_model(encoded->model, [](std::string_view) -> Result<const BlobFile*> {
    return error(ErrorCode::not_found, "no weights");
  });
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  EXPECT_EQ(decoded->functions.size(), model.functions.size());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(HostileProgram, Mutations) {
  const auto sound = serialize(two_function_model());
  ASSERT_TRUE(sound.ok());
  int read = 0;
  const auto check = [&](const PackageBytes& bytes) {
    const auto package = parsed(bytes);
    if (!package.ok()) return;
    ++read;
    const auto again = serialize(package->model);
    if (!again.ok()) return;
    EXPECT_TRUE(parsed(*again).ok());
  };
  PackageBytes bytes = *sound;
  for (size_t size = 0; size < sound->model.size(); ++size) {
    bytes.model.resize(size);
    check(bytes);
    bytes.model = sound->model;
  }
  for (size_t size = 0; size < sound->weights.size(); ++size) {
    bytes.weights.resize(size);
    check(bytes);
    bytes.weights = sound->weights;
  }
  EXPECT_EQ(read, 0);
  for (auto* part : {&bytes.model, &bytes.weights}) {
    for (std::byte& byte : *part) {
      const std::byte kept = byte;
      for (const int change : {1, 2, 0x80, 0xff}) {
        byte = kept ^ static_cast<std::byte>(change);
        check(bytes);
      }
      byte = kept;
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace impetus::mil
