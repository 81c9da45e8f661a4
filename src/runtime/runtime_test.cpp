// Models by name, prompts to answers: the repository's own models on the CPU backend.
#include "runtime/runtime.h"

#include <condition_variable>
#include <fstream>
#include <future>
#include <mutex>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "cpu/cpu_backend.h"
#include "runtime/model.h"
#include "tests/support/grouped_model.h"
#include "tests/support/safetensors_writer.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(IMPETUS_SOURCE_DIR) / "models";

std::unique_ptr<Runtime> make_runtime(DType kv = DType::f16,
                                      std::optional<int64_t> kv_tokens = {}) {
  auto cpu = make_cpu_backend({.threads = 2, .isa = {}});
  EXPECT_TRUE(cpu.ok());
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(*cpu));
  RuntimeOptions options;
  options.load.kv = kv;
  options.kv_tokens = kv_tokens;
  options.model_folders = {kModels};
  auto runtime = Runtime::create(std::move(options), std::move(backends));
  EXPECT_TRUE(runtime.ok());
  return std::move(*runtime);
}

// Gathers an answer; wait() returns after its one end.
class Gather final : public AnswerSink {
 public:
  void on_started(const Devices& given) override {
    EXPECT_EQ(given.prefill.size(), 1u);
    EXPECT_TRUE(text.empty());
  }
  void on_delta(AnswerDelta delta) override {
    const std::lock_guard lock(mutex_);
    text.resize(std::max(text.size(), static_cast<size_t>(delta.choice) + 1));
    text[static_cast<size_t>(delta.choice)] += delta.text;
    for (auto& token : delta.tokens) ids.push_back(token.token.id);
    changed_.notify_all();
  }
  void on_choice_end(int32_t, AnswerEnd end) override { ends.push_back(end); }
  void on_done(const Usage& given, const Timings& times, const Devices& ran) override {
    const std::lock_guard lock(mutex_);
    usage = given;
    timings = times;
    devices = ran;
    ++finished;
    changed_.notify_all();
  }
  void on_error(Error given) override {
    const std::lock_guard lock(mutex_);
    error = std::move(given);
    ++finished;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return finished > 0; }));
  }
  void wait_for_text() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return !text.empty(); }));
  }

  std::vector<std::string> text;
  std::vector<TokenId> ids;
  std::vector<AnswerEnd> ends;
  Usage usage;
  Timings timings;
  Devices devices;
  std::optional<Error> error;
  int finished = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

GenerateRequest chat(const json::array& messages) {
  GenerateRequest request;
  request.model = "impetus-tiny-chat";
  request.prompt = ChatPrompt{messages, {}, true};
  request.sampling.temperature = 0.0f;
  return request;
}

json::array say(std::string_view text) {
  return {json::object{{"role", "user"}, {"content", text}}};
}

std::shared_ptr<Gather> answer(Runtime& runtime, GenerateRequest request) {
  auto sink = std::make_shared<Gather>();
  const auto handle = runtime.generate(std::move(request), sink);
  EXPECT_TRUE(handle.ok()) << handle.error().message;
  if (handle.ok()) sink->wait();
  return sink;
}

Result<EmbedAnswer> embed(Runtime& runtime, EmbedRequest request) {
  request.model = "impetus-tiny-embed";
  std::promise<Result<EmbedAnswer>> promise;
  auto future = promise.get_future();
  IMPETUS_TRY(const auto handle, runtime.embed(std::move(request), [&](Result<EmbedAnswer> result) {
    promise.set_value(std::move(result));
  }));
  return future.get();
}

json::object goldens() {
  return read_json_file(std::string(IMPETUS_SOURCE_DIR) + "/tests/golden/tiny_models.json")
      ->as_object();
}

TEST(OwnModels, ChatFollowsItsGolden) {
  const auto runtime = make_runtime(DType::f32);
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  const json::object golden = goldens();
  for (const json::value& one : golden.at("chat").as_array()) {
    const auto& messages = one.at("messages").as_array();
    const auto rendered = runtime->render_template("impetus-tiny-chat", {messages, {}, true});
    ASSERT_TRUE(rendered.ok()) << rendered.error().message;
    EXPECT_EQ(*rendered, one.at("rendered").as_string());
    const auto ids = runtime->tokenize("impetus-tiny-chat", *rendered, {.parse_special = true});
    std::vector<TokenId> wanted;
    for (const auto& id : one.at("ids").as_array()) wanted.push_back(id.to_number<TokenId>());
    EXPECT_EQ(*ids, wanted);
    GenerateRequest request = chat(messages);
    request.tokens_max = static_cast<int64_t>(one.at("greedy_ids").as_array().size());
    const auto got = answer(*runtime, std::move(request));
    // The golden is f32 arithmetic; the model runs in 8 bits, so the text is held, whose first and
    // second choices are far enough apart.
    EXPECT_EQ(got->text.at(0), one.at("greedy_text").as_string());
  }
}

TEST(OwnModels, EmbedFollowsItsGolden) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-embed").ok());
  const json::object golden = goldens();
  for (const json::value& one : golden.at("embed").as_array()) {
    const std::string text(one.at("text").as_string());
    const auto ids = runtime->tokenize("impetus-tiny-embed", text, {.add_special = true});
    std::vector<TokenId> wanted;
    for (const auto& id : one.at("ids").as_array()) wanted.push_back(id.to_number<TokenId>());
    EXPECT_EQ(*ids, wanted) << text;
    const auto got = embed(*runtime, {.input = std::vector<std::string>{text}});
    ASSERT_TRUE(got.ok()) << got.error().message;
    ASSERT_EQ(got->vectors.at(0).size(), one.at("width").to_number<size_t>());
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(got->vectors[0][i], one.at("first_16").at(i).to_number<double>(), 1e-4) << text;
    }
  }
}

TEST(Runtime, RefusesWhatItCannotDo) {
  const auto runtime = make_runtime();
  const auto missing = runtime->load("no-such-model");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
  EXPECT_NE(missing.error().message.find("impetus-tiny-chat"), std::string::npos)
      << missing.error().message;
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  ASSERT_TRUE(runtime->load("impetus-tiny-embed").ok());
  EXPECT_FALSE(runtime->load("impetus-tiny-chat").ok());

  const auto code = [&](GenerateRequest request) {
    const auto handle = runtime->generate(std::move(request), std::make_shared<Gather>());
    return handle.ok() ? std::string("ok") : std::string(to_string(handle.error().code));
  };
  GenerateRequest request = chat(say("x"));
  request.model = "nobody";
  EXPECT_EQ(code(request), "not_found");
  request.model = "impetus-tiny-embed";
  EXPECT_EQ(code(request), "invalid_argument");
  request = chat(say("x"));
  request.prompt = std::vector<TokenId>{1 << 20};
  EXPECT_EQ(code(request), "invalid_argument");
  request.prompt = std::vector<TokenId>{};
  EXPECT_EQ(code(request), "invalid_argument");
  request.prompt = std::vector<TokenId>(5000, 7);
  EXPECT_EQ(code(request), "context_length");
  request = chat(say("x"));
  request.sampling.logit_bias = {{1 << 20, 1.0f}};
  EXPECT_EQ(code(request), "invalid_argument");

  EXPECT_EQ(embed(*runtime, {.input = std::vector<std::vector<TokenId>>{{-1}}}).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(embed(*runtime, {.input = std::vector<std::vector<TokenId>>{{}}}).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(
      embed(*runtime, {.input = std::vector<std::string>{"x"}, .dimensions = 3}).error().param,
      "dimensions");
}

TEST(Runtime, ADamagedFileLoadsNothing) {
  const fs::path folder = fs::path(::testing::TempDir()) / "impetus-damaged";
  fs::remove_all(folder);
  fs::create_directories(folder / "cut");
  const auto whole = read_file(kModels / "impetus-tiny-chat/impetus-tiny-chat.gguf");
  ASSERT_TRUE(whole.ok());
  std::ofstream(folder / "cut/model.gguf", std::ios::binary).write(whole->data(), 5 << 20);
  const auto runtime = make_runtime();
  const auto loaded = runtime->load((folder / "cut").string());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ErrorCode::corrupt);
  EXPECT_NE(loaded.error().message.find("model.gguf"), std::string::npos) << loaded.error().message;
  EXPECT_TRUE(runtime->models().empty());
  EXPECT_EQ(runtime->ledger().used_bytes(), 0);
  fs::remove_all(folder);
}

// The repository's encoder as MLX would quantise it: a folder that loads, says what it is, and
// embeds nearly as the original does.
TEST(Runtime, AFolderThatMlxQuantisedRuns) {
  const fs::path original = kModels / "impetus-tiny-embed";
  const fs::path folder = fs::path(::testing::TempDir()) / "impetus-mlx" / "impetus-tiny-embed";
  fs::remove_all(folder);
  fs::create_directories(folder.parent_path());
  fs::copy(original, folder, fs::copy_options::recursive);
  auto set = open_safetensors_folder(original);
  ASSERT_TRUE(set.ok()) << set.error().message;
  testing::RandomModel model;
  model.tensors = set->tensors();
  model = testing::in_groups(model, {GroupQuantised::Mode::affine, 6, 64, DType::bf16});
  testing::SafetensorsWriter writer;
  const auto put = [&](const std::string& name, const char* type, int64_t rows, int64_t columns,
                       std::span<const std::byte> bytes) {
    std::vector<uint64_t> shape;
    if (rows > 0) shape.push_back(static_cast<uint64_t>(rows));
    shape.push_back(static_cast<uint64_t>(columns));
    writer.tensor(name, type, shape, testing::Bytes(bytes.begin(), bytes.end()));
  };
  for (const NamedTensor& tensor : model.tensors) {
    const TensorView& view = tensor.view;
    const int64_t rows = view.shape.rank() == 1 ? 0 : view.shape.rows();
    const int64_t columns = view.shape.columns();
    if (view.grouped == nullptr) {
      put(tensor.name, "F32", rows, columns, view.data);
      continue;
    }
    const std::string layer = tensor.name.substr(0, tensor.name.rfind('.'));
    put(tensor.name, "U32", rows, columns * 6 / 32, view.data);
    put(layer + ".scales", "BF16", rows, columns / 64, view.grouped->scales);
    put(layer + ".biases", "BF16", rows, columns / 64, view.grouped->biases);
  }
  const testing::Bytes file = writer.finish();
  std::ofstream(folder / "model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
  const auto config = read_json_file((original / "config.json").string());
  json::object changed = config->as_object();
  changed["quantization"] = json::object{{"group_size", 64}, {"bits", 6}};
  std::ofstream(folder / "config.json") << json::serialize(changed);

  const auto runtime = make_runtime();
  const auto loaded = runtime->load(folder.string());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(runtime->models().at(0).precision, "6-bit, groups of 64");
  const auto plain = make_runtime();
  ASSERT_TRUE(plain->load("impetus-tiny-embed").ok());
  const EmbedRequest request{.input = std::vector<std::string>{"the cat sat on the mat"}};
  const auto got = embed(*runtime, request);
  const auto wanted = embed(*plain, request);
  ASSERT_TRUE(got.ok() && wanted.ok());
  double cosine = 0;
  for (size_t i = 0; i < wanted->vectors.at(0).size(); ++i) {
    cosine +=
        static_cast<double>(wanted->vectors[0][i]) * static_cast<double>(got->vectors.at(0)[i]);
  }
  EXPECT_GT(cosine, 0.995);
  EXPECT_LT(cosine, 0.99999999) << "it is not the original that ran";
  fs::remove_all(folder.parent_path());
}

TEST(Runtime, NormalisesAndTruncatesOnlyAsAsked) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-embed").ok());
  const auto norm = [](const std::vector<float>& vector) {
    double sum = 0;
    for (const float x : vector) sum += double{x} * x;
    return std::sqrt(sum);
  };
  const std::vector<std::string> text{"A cat sleeps on the warm stove."};
  EXPECT_NEAR(norm(embed(*runtime, {.input = text})->vectors[0]), 1, 1e-5);
  EXPECT_GT(std::fabs(norm(embed(*runtime, {.input = text, .normalize = false})->vectors[0]) - 1),
            1e-3);
  std::string longer;
  for (int i = 0; i < 3000; ++i) longer += "word ";
  const auto refused = embed(*runtime, {.input = std::vector<std::string>{longer}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::context_length);
  EXPECT_TRUE(embed(*runtime, {.input = std::vector<std::string>{longer}, .truncate = true}).ok());
}

TEST(Runtime, SeveralTurnsOfOneRoleAreTaken) {
  ModelText text;
  auto parsed = ChatTemplate::parse(
      "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m['content'] }}]{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  text.chat_template = std::move(*parsed);
  json::array messages = say("a");
  messages.push_back(json::object{{"role", "user"}, {"content", "b"}});
  const auto rendered = render_prompt(text, {messages, {}, true});
  ASSERT_TRUE(rendered.ok()) << rendered.error().message;
  EXPECT_EQ(*rendered, "[a\n\nb]");
  messages = {json::object{{"role", "assistant"}, {"content", "a"}}};
  const auto refused = render_prompt(text, {messages, {}, true});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("roles must alternate"), std::string::npos);
}

TEST(Runtime, SeedsDecideNotCompany) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  const auto request = [&](uint64_t seed) {
    GenerateRequest one = chat(say("Tell me a story."));
    one.sampling.temperature = 1.0f;
    one.sampling.seed = seed;
    one.tokens_max = 24;
    return one;
  };
  std::vector<std::string> alone;
  for (uint64_t seed = 0; seed < 6; ++seed)
    alone.push_back(answer(*runtime, request(seed))->text.at(0));
  EXPECT_NE(alone[0], alone[1]);
  std::vector<std::shared_ptr<Gather>> sinks;
  std::vector<RequestHandle> handles;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    sinks.push_back(std::make_shared<Gather>());
    handles.push_back(std::move(*runtime->generate(request(seed), sinks.back())));
  }
  for (uint64_t seed = 0; seed < 6; ++seed) {
    sinks[seed]->wait();
    EXPECT_EQ(sinks[seed]->text.at(0), alone[seed]);
  }
}

TEST(Runtime, AnAnswerSaysWhoRanIt) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  GenerateRequest request = chat(say("Hi"));
  request.tokens_max = 1;
  const auto short_one = answer(*runtime, request);
  EXPECT_EQ(short_one->devices.prefill.size(), 1u);
  EXPECT_TRUE(short_one->devices.decode.empty());  // the prompt's last step gave the only token
  request.tokens_max = 8;
  request.n = 3;
  const auto longer = answer(*runtime, request);
  EXPECT_EQ(longer->devices.prefill, short_one->devices.prefill);
  EXPECT_EQ(longer->devices.decode, short_one->devices.prefill);
  EXPECT_TRUE(longer->devices.text().starts_with("cpu-")) << longer->devices.text();
  EXPECT_EQ(longer->timings.handoff_seconds, 0);
}

TEST(Runtime, CancelledWorkEndsOnce) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  auto sink = std::make_shared<Gather>();
  GenerateRequest request = chat(say("Tell me a long story."));
  request.sampling.logit_bias = {{0, -100.0f}, {2, -100.0f}};
  request.n = 3;
  {
    const auto handle = runtime->generate(std::move(request), sink);
    ASSERT_TRUE(handle.ok());
    sink->wait_for_text();
  }
  sink->wait();
  EXPECT_EQ(sink->finished, 1);
  ASSERT_EQ(sink->ends.size(), 3u);
  EXPECT_EQ(sink->ends[0], AnswerEnd::cancelled);
  EXPECT_EQ(runtime->metrics().at(0).running, 0);
}

TEST(Runtime, GoesOnPastTheModelsEndWhereAsked) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  GenerateRequest request = chat(say("Hello!"));
  request.tokens_max = 300;
  const auto ended = answer(*runtime, request);
  ASSERT_EQ(ended->ends, std::vector{AnswerEnd::stop});  // or this proves nothing
  request.ignore_eos = true;
  const auto whole = answer(*runtime, request);
  EXPECT_EQ(whole->ends, std::vector{AnswerEnd::length});
  EXPECT_EQ(whole->usage.completion_tokens, 300);
  EXPECT_TRUE(whole->text.at(0).starts_with(ended->text.at(0)));
}

TEST(Runtime, OutgrowingTheCacheEndsAsLength) {
  const auto runtime = make_runtime(DType::f16, 64);
  const auto info = runtime->load("impetus-tiny-chat");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->context, 64);
  GenerateRequest request = chat(say("Hi"));
  request.sampling.logit_bias = {{0, -100.0f}, {2, -100.0f}};
  const auto got = answer(*runtime, std::move(request));
  ASSERT_EQ(got->ends.size(), 1u);
  EXPECT_EQ(got->ends[0], AnswerEnd::length);
  EXPECT_LE(got->usage.prompt_tokens + got->usage.completion_tokens, 65);
}

TEST(Runtime, DrainLetsWorkEndAndTakesNoMore) {
  const auto runtime = make_runtime();
  ASSERT_TRUE(runtime->load("impetus-tiny-chat").ok());
  auto sink = std::make_shared<Gather>();
  GenerateRequest request = chat(say("Hi"));
  request.tokens_max = 32;
  auto handle = runtime->generate(request, sink);
  ASSERT_TRUE(handle.ok());
  runtime->drain(60);
  EXPECT_EQ(sink->finished, 1);
  EXPECT_FALSE(sink->error);
  EXPECT_FALSE(runtime->generate(std::move(request), std::make_shared<Gather>()).ok());
}

TEST(Catalogue, FindsByPathAndName) {
  const auto by_name = locate_model("impetus-tiny-chat", {kModels});
  ASSERT_TRUE(by_name.ok());
  EXPECT_EQ(by_name->format, ModelLocation::Format::gguf);
  const auto by_path = locate_model((kModels / "impetus-tiny-embed").string() + "/", {});
  ASSERT_TRUE(by_path.ok());
  EXPECT_EQ(by_path->id, "impetus-tiny-embed");
  const auto file =
      locate_model((kModels / "impetus-tiny-chat/impetus-tiny-chat.gguf").string(), {});
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->id, "impetus-tiny-chat");
  EXPECT_FALSE(locate_model((kModels / "recipe").string(), {}).ok());
  EXPECT_FALSE(locate_model("", {kModels}).ok());
  EXPECT_EQ(list_models({kModels}).size(), 2u);
}

}  // namespace
}  // namespace impetus
