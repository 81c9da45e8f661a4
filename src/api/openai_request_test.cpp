#include "api/openai_request.h"

#include <gtest/gtest.h>

#include "api/error.h"

namespace impetus::api {
namespace {

json::value parsed(std::string_view text) {
  auto value = parse_json(text);
  EXPECT_TRUE(value.ok()) << text;
  return *value;
}

ChatCall chat(std::string_view text) {
  auto call = parse_chat(parsed(text));
  EXPECT_TRUE(call.ok()) << text << "\n" << call.error().message;
  return *call;
}

const json::object& message(const ChatCall& call, size_t index) {
  return std::get<ChatPrompt>(call.generate.prompt).messages.at(index).as_object();
}

TEST(ParseChat, TakesWhatClientsSend) {
  const ChatCall call = chat(R"({
    "model": "m", "messages": [
      {"role": "developer", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
      {"role": "assistant", "content": null}],
    "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "seed": -3, "n": 2, "stop": "END",
    "max_tokens": 5, "max_completion_tokens": 7, "logit_bias": {"12": -100}, "logprobs": true,
    "top_logprobs": 3, "stream": true, "stream_options": {"include_usage": true},
    "user": "someone", "metadata": {"a": "b"}, "tools": [], "tool_choice": "none",
    "response_format": {"type": "text"}, "some_future_field": 1})");
  EXPECT_EQ(call.generate.model, "m");
  EXPECT_EQ(message(call, 0).at("role"), "system");
  EXPECT_EQ(message(call, 1).at("content"), "Hello");
  EXPECT_EQ(message(call, 2).at("content"), "");
  EXPECT_EQ(call.generate.sampling.temperature, 0.0f);  // zero is a value, not "unset"
  EXPECT_EQ(call.generate.sampling.top_k, 0);
  EXPECT_EQ(call.generate.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(call.generate.n, 2);
  EXPECT_EQ(call.generate.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(call.generate.tokens_max, 7);
  ASSERT_EQ(call.generate.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(call.generate.sampling.logit_bias[0].first, 12);
  EXPECT_EQ(call.generate.sampling.top_logprobs, 3);
  EXPECT_TRUE(call.stream.stream);
  EXPECT_TRUE(call.stream.include_usage);
}

TEST(ParseChat, LeavesUnsetWhatIsUnset) {
  const ChatCall call = chat(R"({"messages": [{"role": "user", "content": "x"}], "stop": null,
                                 "temperature": null, "max_tokens": null})");
  EXPECT_FALSE(call.generate.sampling.temperature);
  EXPECT_FALSE(call.generate.tokens_max);
  EXPECT_FALSE(call.generate.sampling.seed);
  EXPECT_EQ(call.generate.sampling.top_logprobs, -1);
  EXPECT_FALSE(call.stream.stream);
}

struct Refusal {
  const char* body;  // merged after a valid start
  const char* param;
};

class ParseChatRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(ParseChatRefuses, NamingTheField) {
  const std::string body =
      std::string(R"({"model": "m", "messages": [{"role": "user", "content": "x"}], )") +
      GetParam().body + "}";
  const auto call = parse_chat(parsed(body));
  ASSERT_FALSE(call.ok()) << body;
  EXPECT_EQ(call.error().param, GetParam().param) << call.error().message;
  EXPECT_EQ(wire_error(call.error()).status, 400);
  EXPECT_NE(call.error().message.find(GetParam().param), std::string::npos) << call.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ParseChatRefuses,
    ::testing::Values(Refusal{R"("temperature": 3)", "temperature"},
                      Refusal{R"("temperature": "hot")", "temperature"},
                      Refusal{R"("top_p": -0.1)", "top_p"}, Refusal{R"("top_k": -2)", "top_k"},
                      Refusal{R"("min_p": 2)", "min_p"}, Refusal{R"("n": 0)", "n"},
                      Refusal{R"("n": 1000)", "n"}, Refusal{R"("n": 1.5)", "n"},
                      Refusal{R"("max_tokens": 0)", "max_tokens"},
                      Refusal{R"("max_completion_tokens": "many")", "max_completion_tokens"},
                      Refusal{R"("stop": ["a", 1])", "stop"}, Refusal{R"("stop": "")", "stop"},
                      Refusal{R"("seed": "x")", "seed"}, Refusal{R"("seed": 1e300)", "seed"},
                      Refusal{R"("logit_bias": {"x": 1})", "logit_bias"},
                      Refusal{R"("logit_bias": {"1": 101})", "logit_bias"},
                      Refusal{R"("logit_bias": [])", "logit_bias"},
                      Refusal{R"("top_logprobs": 2)", "top_logprobs"},
                      Refusal{R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
                      Refusal{R"("tools": [{"type": "function"}])", "tools"},
                      Refusal{R"("tool_choice": "required")", "tool_choice"},
                      Refusal{R"("functions": [{}])", "functions"},
                      Refusal{R"("response_format": {"type": "json_object"})", "response_format"},
                      Refusal{R"("response_format": {"type": "json_schema", "json_schema": {}})",
                              "response_format"},
                      Refusal{R"("modalities": ["text", "audio"])", "modalities"},
                      Refusal{R"("ignore_eos": "yes")", "ignore_eos"},
                      Refusal{R"("stream": 1)", "stream"},
                      Refusal{R"("stream_options": true)", "stream_options"},
                      Refusal{R"("repetition_penalty": 0)", "repetition_penalty"},
                      Refusal{R"("presence_penalty": 2.5)", "presence_penalty"},
                      Refusal{R"("chat_template_kwargs": 1)", "chat_template_kwargs"}));

TEST(ParseChat, RefusesMessagesItWouldMisread) {
  for (const char* messages :
       {"[]", "null", R"("hi")", "[1]", "[{}]", R"([{"role": "user"}])", R"([{"role": "system"}])",
        R"([{"role": "user", "content": 5}])", R"([{"role": "wizard", "content": "x"}])",
        R"([{"role": "tool", "content": "x"}])",
        R"([{"role": "assistant", "content": null, "tool_calls": [{}]}])",
        R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
        R"([{"role": "user", "content": [{"text": "x"}]}])"}) {
    const auto call = parse_chat(parsed(fmt::format(R"({{"messages": {}}})", messages)));
    ASSERT_FALSE(call.ok()) << messages;
    EXPECT_EQ(call.error().param, "messages") << messages;
  }
  EXPECT_FALSE(parse_chat(parsed("[]")).ok());
}

TEST(ParseCompletion, TakesOnePromptOrMany) {
  const auto one = parse_completion(parsed(R"({"prompt": "x", "echo": true, "suffix": ""})"));
  ASSERT_TRUE(one.ok());
  ASSERT_EQ(one->generate.size(), 1u);
  EXPECT_EQ(one->generate[0].tokens_max, 16);
  EXPECT_TRUE(one->generate[0].echo);
  const auto many = parse_completion(parsed(R"({"prompt": ["a", [1, 2]], "logprobs": 2})"));
  ASSERT_TRUE(many.ok());
  ASSERT_EQ(many->generate.size(), 2u);
  EXPECT_EQ(std::get<std::vector<TokenId>>(many->generate[1].prompt), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(many->generate[1].sampling.top_logprobs, 2);
  const auto ids = parse_completion(parsed(R"({"prompt": [5, 6]})"));
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->generate.size(), 1u);
}

TEST(ParseCompletion, RefusesWhatItDoesNotDo) {
  for (const auto& [body, param] : std::vector<std::pair<const char*, const char*>>{
           {R"({})", "prompt"},
           {R"({"prompt": []})", "prompt"},
           {R"({"prompt": [1, "a"]})", "prompt"},
           {R"({"prompt": ["a", 1]})", "prompt"},
           {R"({"prompt": [-1]})", "prompt"},
           {R"({"prompt": "a", "suffix": "b"})", "suffix"},
           {R"({"prompt": "a", "best_of": 3})", "best_of"},
           {R"({"prompt": "a", "echo": true, "logprobs": 1})", "logprobs"},
           {R"({"prompt": "a", "logprobs": 99})", "logprobs"}}) {
    const auto call = parse_completion(parsed(body));
    ASSERT_FALSE(call.ok()) << body;
    EXPECT_EQ(call.error().param, param) << body;
  }
}

TEST(ParseEmbedding, TakesTextsAndRefusesForeignTokens) {
  const auto call = parse_embedding(
      parsed(R"({"model": "e", "input": ["a", "b"], "encoding_format": "base64"})"), {});
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(call->base64);
  EXPECT_EQ(std::get<std::vector<std::string>>(call->embed.input).size(), 2u);
  for (const char* body : {R"({"input": [1, 2]})", R"({"input": [[1], [2]]})"}) {
    const auto tokens = parse_embedding(parsed(body), {});
    ASSERT_FALSE(tokens.ok());
    EXPECT_EQ(tokens.error().param, "input");
    EXPECT_NE(tokens.error().message.find("check_embedding_ctx_length=False"), std::string::npos);
    EXPECT_TRUE(parse_embedding(parsed(body), {.accept_token_ids = true}).ok());
  }
  for (const char* body :
       {R"({})", R"({"input": []})", R"({"input": {}})", R"({"input": ["a", 1]})",
        R"({"input": [1.5]})", R"({"input": "a", "encoding_format": "hex"})",
        R"({"input": "a", "dimensions": 0})", R"({"input": "a", "truncate": "yes"})",
        R"({"prompt": "a"})"}) {
    EXPECT_FALSE(parse_embedding(parsed(body), {.accept_token_ids = true}).ok()) << body;
  }
  const auto legacy =
      parse_embedding(parsed(R"({"model": "e", "prompt": "a"})"), {.accept_legacy = true});
  ASSERT_TRUE(legacy.ok());
  EXPECT_TRUE(legacy->legacy);
}

TEST(ParseTokenize, NeedsText) {
  EXPECT_TRUE(parse_tokenize(parsed(R"({"content": "x"})")).ok());
  EXPECT_FALSE(parse_tokenize(parsed(R"({"model": "m"})")).ok());
  EXPECT_TRUE(parse_detokenize(parsed(R"({"tokens": [1]})")).ok());
  EXPECT_FALSE(parse_detokenize(parsed(R"({"tokens": ["1"]})")).ok());
}

}  // namespace
}  // namespace impetus::api
