// validate() and walk() on programs built right and then broken, one thing at a time.
#include <gtest/gtest.h>

#include "mil/builder.h"
#include "mil/operations.h"
#include "mil/walk.h"

namespace impetus::mil {
namespace {

// x [1, 4] and a constant: y = relu(x + c), z = softmax(y).
Model small_model() {
  FunctionBuilder b(Opset::core_ml7);
  const auto x = b.input("x", {DataType::f16, {1, 4}});
  const auto c = b.constant(f16_values(std::vector<float>{1, 2, 3, 4}, {4}), "c");
  const auto y = b.relu(b.add(x, c, "sum"), "act");
  b.output(y, "y");
  b.output(b.softmax(y, -1), "z");
  Function function = *b.finish();
  Model model{.specification_version = 8};
  model.functions.push_back(*describe("main", function));
  model.program.functions.emplace("main", std::move(function));
  return model;
}

Block& block_of(Model& model) {
  Function& function = model.program.functions.at("main");
  return function.blocks.at(function.opset);
}

Operation& operation_of(Model& model, std::string_view type) {
  for (Operation& operation : block_of(model).operations) {
    if (operation.type == type) return operation;
  }
  throw std::runtime_error("no such operation");
}

TensorType& declared(Operation& operation) {
  return operation.outputs.front().type.tensor;
}

struct Breakage {
  std::string_view what;  // that the error must hold
  void (*apply)(Model&);
  bool every_parameter = false;
  Unknown unknown = Unknown::refuse;
};

TEST(Validate, NamesWhatIsBroken) {
  ASSERT_TRUE(validate(small_model(), Unknown::refuse, true).ok());
  const std::vector<Breakage> breakages{
      {"the program has no function", [](Model& m) { m.program.functions.clear(); }},
      {"opset \"CoreML4\" is unknown",
       [](Model& m) {
         Function& f = m.program.functions.at("main");
         f.blocks.emplace("CoreML4", f.blocks.at(f.opset));
         f.opset = "CoreML4";
       }},
      {"there is no block", [](Model& m) { m.program.functions.at("main").opset = "CoreML6"; }},
      {"needs specification version 8", [](Model& m) { m.specification_version = 7; }},
      {"input \"x y\" is no identifier",
       [](Model& m) { m.program.functions.at("main").inputs[0].name = "x y"; }},
      {"result \"true\" is no identifier",
       [](Model& m) { operation_of(m, "add").outputs[0].name = "true"; }},
      {"the name \"x\" is defined twice",
       [](Model& m) { operation_of(m, "add").outputs[0].name = "x"; }},
      {"the name \"c\" is defined twice",
       [](Model& m) {
         auto& operations = block_of(m).operations;
         operations.push_back(operations.front());
       }},
      {"bound to \"y\", which nothing before it defines: the program is cyclic",
       [](Model& m) { operation_of(m, "add").inputs["x"] = {std::string("y")}; }},
      {"operation sum (add): parameter y is bound to \"nothing\"",
       [](Model& m) { operation_of(m, "add").inputs["y"] = {std::string("nothing")}; }},
      {"operation sum (add): required parameter y is missing",
       [](Model& m) { operation_of(m, "add").inputs.erase("y"); }},
      {"parameter y is bound to nothing",
       [](Model& m) { operation_of(m, "add").inputs["y"].clear(); }},
      {"parameter y is bound to 2 values",
       [](Model& m) { operation_of(m, "add").inputs["y"].emplace_back(std::string("x")); }},
      {"add has no parameter z",
       [](Model& m) { operation_of(m, "add").inputs["z"] = {std::string("x")}; }},
      {"result \"sum\" is declared fp16[1, 5] and is fp16[1, 4]",
       [](Model& m) { declared(operation_of(m, "add")).shape[1] = 5; }},
      {"is declared fp32[1, 4]",
       [](Model& m) { declared(operation_of(m, "add")).dtype = DataType::f32; }},
      {"-5 is no length", [](Model& m) { declared(operation_of(m, "add")).shape[1] = -5; }},
      {"is no length",
       [](Model& m) { declared(operation_of(m, "add")).shape[1] = int64_t{1} << 62; }},
      {"declares 2 results and has 1",
       [](Model& m) {
         auto& outputs = operation_of(m, "add").outputs;
         outputs.push_back({"more", outputs[0].type});
       }},
      {"declares 0 results",
       [](Model& m) {
         auto& operations = block_of(m).operations;
         operations.push_back(operation_of(m, "relu"));
         operations.back().outputs.clear();
       }},
      {"holds 7 bytes instead of 8",
       [](Model& m) {
         Value& value = operation_of(m, "const").attributes.at("val");
         value.bytes.view = value.bytes.view.first(7);
       }},
      {"required parameter val is missing",
       [](Model& m) { operation_of(m, "const").attributes.erase("val"); }},
      {"its parameters must be attributes, and val is an input",
       [](Model& m) {
         Operation& c = operation_of(m, "const");
         c.inputs["val"] = {c.attributes.at("val")};
         c.attributes.erase("val");
       }},
      {"it has an attribute axis",
       [](Model& m) { operation_of(m, "add").attributes.emplace("axis", Value::scalar(1)); }},
      {"one string is wanted",
       [](Model& m) { operation_of(m, "add").attributes.at("name") = Value::scalar(1); }},
      {"it has no name", [](Model& m) { operation_of(m, "add").attributes.erase("name"); }, true},
      {"parameter axis is missing; Core ML wants all of them",
       [](Model& m) { operation_of(m, "softmax").inputs.erase("axis"); }, true},
      {"frobnicate is no operation", [](Model& m) { operation_of(m, "add").type = "frobnicate"; }},
      {"lstm is no operation that this build can type",
       [](Model& m) { operation_of(m, "add").type = "lstm"; }},
      {"needs CoreML8, and the function is written in CoreML7",
       [](Model& m) { operation_of(m, "add").type = "slice_update"; }, false, Unknown::trust},
      {"it takes no blocks", [](Model& m) { operation_of(m, "add").blocks.emplace_back(); }},
      {"nothing defines the block's output \"w\"", [](Model& m) { block_of(m).outputs[0] = "w"; }},
      {"it gives \"y\" twice", [](Model& m) { block_of(m).outputs[1] = "y"; }},
      {"it gives nothing", [](Model& m) { block_of(m).outputs.clear(); }},
      {"output \"z\" is described, and the function has none",
       [](Model& m) { block_of(m).outputs.pop_back(); }},
      {"output \"z\" is not described", [](Model& m) { m.functions[0].outputs.pop_back(); }},
      {"input \"x\" is not described", [](Model& m) { m.functions[0].inputs.clear(); }},
      {"is described twice",
       [](Model& m) { m.functions[0].inputs.push_back(m.functions[0].inputs[0]); }},
      {"described as fp32[1, 4], and the function has fp16[1, 4]",
       [](Model& m) { m.functions[0].inputs[0].type.dtype = DataType::f32; }},
      {"described as fp16[1, 3]", [](Model& m) { m.functions[0].inputs[0].type.shape[1] = 3; }},
      {"it is a state only on one side",
       [](Model& m) {
         Feature state = m.functions[0].inputs[0];
         state.kind = Feature::Kind::state;
         m.functions[0].inputs.clear();
         m.functions[0].states.push_back(state);
       }},
      {"described among the states and is none",
       [](Model& m) { m.functions[0].states.swap(m.functions[0].inputs); }},
      {"shape [1, 5] is offered", [](Model& m) { m.functions[0].inputs[0].enumerated = {{1, 5}}; }},
      {"dimension 1 ranges from 5 to 9",
       [](Model& m) { m.functions[0].inputs[0].ranges = {{1, 1}, {5, 9}}; }},
      {"1 ranges are offered", [](Model& m) { m.functions[0].inputs[0].ranges = {{1, 1}}; }},
      {"function main: the model does not describe it", [](Model& m) { m.functions.clear(); }},
      {"function main is described twice",
       [](Model& m) { m.functions.push_back(m.functions[0]); }},
      {"\"other\" is described, and the program has none",
       [](Model& m) {
         m.functions.push_back(m.functions[0]);
         m.functions[1].name = "other";
       }},
      {"default function \"decode\" is not there", [](Model& m) { m.default_function = "decode"; }},
      {"several functions need specification version 9",
       [](Model& m) {
         m.program.functions.emplace("other", m.program.functions.at("main"));
         m.functions.push_back(m.functions[0]);
         m.functions[1].name = "other";
       }},
      {"states need CoreML8",
       [](Model& m) {
         m.program.functions.at("main").inputs.push_back(
             {"s", {.kind = ValueType::Kind::state, .tensor = {DataType::f16, {1}}}});
       }},
  };
  for (const Breakage& breakage : breakages) {
    Model model = small_model();
    breakage.apply(model);
    const auto valid = validate(model, breakage.unknown, breakage.every_parameter);
    ASSERT_FALSE(valid.ok()) << "should hold: " << breakage.what;
    EXPECT_NE(valid.error().message.find(breakage.what), std::string::npos)
        << "\"" << valid.error().message << "\" should hold \"" << breakage.what << "\"";
  }
}

TEST(Validate, PlacesAreNamed) {
  Model model = small_model();
  declared(operation_of(model, "add")).shape[1] = 5;
  EXPECT_TRUE(validate(model, Unknown::refuse)
                  .error()
                  .message.starts_with("function main: operation sum (add): "));
}

TEST(Validate, TrustsWhatTheTableDoesNotKnow) {
  Model model = small_model();
  Operation& custom = operation_of(model, "relu");
  custom.type = "custom_layer";
  custom.attributes.emplace("class_name", Value::scalar(std::string("x")));
  EXPECT_TRUE(validate(model, Unknown::trust).ok());
  const auto refused = validate(model, Unknown::refuse);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
}

TEST(Validate, UnknownLengthsAgreeWithKnownOnes) {
  Model model = small_model();
  model.program.functions.at("main").inputs[0].type.tensor.shape[0] = kUnknown;
  for (Operation& operation : block_of(model).operations) {
    if (operation.type != "const") declared(operation).shape[0] = kUnknown;
  }
  model.functions[0].inputs[0].ranges = {{1, 9}, {4, 4}};
  model.functions[0].outputs[0].type.shape.clear();
  const auto valid = validate(model, Unknown::refuse, true);
  EXPECT_TRUE(valid.ok()) << valid.error().message;
}

Operation named(std::string type, std::string name, std::map<std::string, Argument, std::less<>> in,
                TensorType result) {
  Operation operation{.type = std::move(type), .inputs = std::move(in)};
  operation.outputs.push_back({std::move(name), {.tensor = std::move(result)}});
  return operation;
}

// if (flag) relu(x) else tanh(x), in a block each.
Model branching_model() {
  const TensorType vector{DataType::f16, {4}}, flag{DataType::boolean};
  Function function{.inputs = {{"x", {.tensor = vector}}}, .opset = "CoreML7"};
  Block block{.outputs = {"y"}};
  Operation constant = named("const", "flag", {}, flag);
  constant.attributes.emplace("val", Value::scalar(true));
  block.operations.push_back(std::move(constant));
  Operation branch = named("cond", "y", {{"pred", {std::string("flag")}}}, vector);
  for (const char* type : {"relu", "tanh"}) {
    Block inner{.outputs = {"inner"}};
    inner.operations.push_back(named(type, "inner", {{"x", {std::string("x")}}}, vector));
    branch.blocks.push_back(std::move(inner));
  }
  block.operations.push_back(std::move(branch));
  function.blocks.emplace("CoreML7", std::move(block));
  Model model{.specification_version = 8};
  model.functions.push_back(*describe("main", function));
  model.program.functions.emplace("main", std::move(function));
  return model;
}

TEST(Validate, NestedBlocksSeeWhatIsAroundThemAndNotTheirSiblings) {
  Model model = branching_model();
  const auto valid = validate(model, Unknown::trust);
  EXPECT_TRUE(valid.ok()) << valid.error().message;
  EXPECT_FALSE(validate(model, Unknown::refuse).ok());

  const auto expect = [](const Model& broken, std::string_view what) {
    const auto result = validate(broken, Unknown::trust);
    ASSERT_FALSE(result.ok()) << what;
    EXPECT_NE(result.error().message.find(what), std::string::npos) << result.error().message;
  };
  Model leak = branching_model();
  block_of(leak).outputs[0] = "inner";
  expect(leak, "nothing defines the block's output \"inner\"");
  Model shadow = branching_model();
  Block& first = operation_of(shadow, "cond").blocks[0];
  first.operations[0].outputs[0].name = "x";
  first.outputs[0] = "x";
  expect(shadow, "the name \"x\" is defined twice");
  Model wrong = branching_model();
  operation_of(wrong, "cond").blocks[1].operations[0].outputs[0].type.tensor.shape = {5};
  expect(wrong, "operation y (cond): operation inner (tanh)");
  Model one = branching_model();
  operation_of(one, "cond").blocks.pop_back();
  expect(one, "it has 1 blocks");
  Model inputs = branching_model();
  operation_of(inputs, "cond").blocks[0].inputs.push_back({"i", {}});
  expect(inputs, "its block 0 takes 1 values");

  Model deep = branching_model();
  Operation layer = operation_of(deep, "cond");
  for (int i = 0; i < 200; ++i) {
    Operation outer = layer;
    outer.outputs[0].name = fmt::format("y{}", i);
    for (Block& block : outer.blocks) block = {.outputs = {std::string(layer.name())}};
    outer.blocks[0].operations = {layer};
    outer.blocks[1].operations = {layer};
    if (i > 4) outer.blocks[1].operations[0].blocks.clear();
    layer = std::move(outer);
  }
  layer.outputs[0].name = "y";
  block_of(deep).operations.back() = layer;
  expect(deep, "nested more than 16 deep");
}

TEST(Walk, GivesTypesConstantsAndWhatIsFixed) {
  const Model model = small_model();
  std::vector<std::string> seen;
  const auto walked = walk(model.program.functions.at("main"), [&](const Visit& visit) {
    seen.push_back(visit.where());
    if (visit.operation.type == "add") {
      const Operand* x = visit.operands.find("x");
      const Operand* y = visit.operands.find("y");
      EXPECT_EQ(x->type.to_string(), "fp16[1, 4]");
      EXPECT_EQ(x->constant, nullptr);
      EXPECT_FALSE(x->fixed);
      EXPECT_TRUE(y->fixed);
      EXPECT_EQ(*y->constant->as_floats(), (std::vector<float>{1, 2, 3, 4}));
      EXPECT_FALSE(visit.fixed);
      EXPECT_EQ(visit.operands.find("z"), nullptr);
      EXPECT_TRUE(visit.operands.all("z").empty());
    }
    if (visit.operation.type == "const") EXPECT_TRUE(visit.fixed);
    EXPECT_NE(visit.spec, nullptr);
    return Result<void>();
  });
  ASSERT_TRUE(walked.ok());
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_EQ(seen[1], "operation sum (add)");

  int visits = 0;
  const auto stopped = walk(model.program.functions.at("main"), [&](const Visit&) -> Result<void> {
    ++visits;
    return error(ErrorCode::cancelled, "enough");
  });
  EXPECT_EQ(visits, 1);
  EXPECT_EQ(stopped.error().message, "enough");
  const auto outputs = outputs_of(model.program.functions.at("main"));
  ASSERT_TRUE(outputs.ok());
  EXPECT_EQ((*outputs)[1].name, "z");
  EXPECT_EQ((*outputs)[1].type.to_string(), "fp16[1, 4]");
}

TEST(Walk, VisitsNestedOperationsAfterTheirOwner) {
  const Model model = branching_model();
  std::string order;
  ASSERT_TRUE(walk(model.program.functions.at("main"), [&](const Visit& visit) {
                order += fmt::format("{}{} ", visit.operation.type, visit.depth);
                return Result<void>();
              }).ok());
  EXPECT_EQ(order, "const0 cond0 relu1 tanh1 ");
}

}  // namespace
}  // namespace impetus::mil
