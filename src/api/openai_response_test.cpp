#include "api/openai_response.h"

#include <cstring>

#include <gtest/gtest.h>

#include "api/error.h"

namespace impetus::api {
namespace {

json::object object(const std::string& text) {
  auto value = parse_json(text);
  EXPECT_TRUE(value.ok()) << text;
  return value->as_object();
}

const json::object& only_choice(const json::object& body) {
  return body.at("choices").as_array().at(0).as_object();
}

AnswerHead head(AnswerKind kind = AnswerKind::chat) {
  return {kind, "id-1", 1700000000, "m", true, true};
}

TEST(Base64, MatchesTheStandardsVectors) {  // RFC 4648, section 10
  for (const auto& [plain, encoded] :
       std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                        {"f", "Zg=="},
                                                        {"fo", "Zm8="},
                                                        {"foo", "Zm9v"},
                                                        {"foob", "Zm9vYg=="},
                                                        {"fooba", "Zm9vYmE="},
                                                        {"foobar", "Zm9vYmFy"}}) {
    EXPECT_EQ(base64_encode(plain.data(), plain.size()), encoded);
  }
}

TEST(AnswerBody, HasWhatClientsRead) {
  ChoiceText choice;
  choice.text = "Hi";
  choice.tokens = {{{5, "Hi", -0.5f}, {{6, "\xf0\x9f", -1.0f}}}};
  choice.end = AnswerEnd::length;
  const auto body = object(
      answer_body(head(), {choice}, {10, 4, 1}, {}, {{"npu", "cpu-avx2"}, {"cpu-avx2"}, {}}));
  EXPECT_EQ(body.at("object"), "chat.completion");
  const auto& first = only_choice(body);
  EXPECT_EQ(first.at("message").at("content"), "Hi");
  EXPECT_EQ(first.at("finish_reason"), "length");
  const auto& token = first.at("logprobs").at("content").as_array().at(0).as_object();
  EXPECT_EQ(token.at("token"), "Hi");
  const auto& top = token.at("top_logprobs").as_array().at(0).as_object();
  EXPECT_EQ(top.at("token"), "\xef\xbf\xbd");  // not UTF-8 alone; its bytes say what it is
  EXPECT_EQ(top.at("bytes").as_array().size(), 2u);
  EXPECT_EQ(body.at("usage").at("total_tokens"), 11);
  EXPECT_EQ(body.at("usage").at("prompt_tokens_details").at("cached_tokens"), 4);
  const auto& own = body.at("impetus").as_object();
  EXPECT_EQ(own.at("device"), "npu, cpu-avx2");
  EXPECT_EQ(own.at("devices").at("prefill"), (json::array{"npu", "cpu-avx2"}));
  EXPECT_EQ(own.at("devices").at("decode"), (json::array{"cpu-avx2"}));
  EXPECT_TRUE(own.at("timings").at("handoff_ms").is_double());
}

TEST(AnswerStream, KeepsTheOrderClientsExpect) {
  AnswerStream stream(head());
  const auto role = object(stream.role(0));
  EXPECT_EQ(only_choice(role).at("delta").at("role"), "assistant");
  EXPECT_TRUE(role.at("usage").is_null());
  const auto delta = object(stream.delta({0, "x", {}}));
  EXPECT_EQ(only_choice(delta).at("delta").at("content"), "x");
  EXPECT_TRUE(only_choice(delta).at("finish_reason").is_null());
  const auto end = object(stream.choice_end(0, AnswerEnd::stop));
  EXPECT_EQ(only_choice(end).at("finish_reason"), "stop");
  const auto usage = object(stream.usage({1, 0, 2}, {}, {{"cpu"}, {}, {}}));
  EXPECT_TRUE(usage.at("choices").as_array().empty());
  EXPECT_EQ(usage.at("usage").at("completion_tokens"), 2);
  EXPECT_EQ(usage.at("impetus").at("device"), "cpu");
  EXPECT_TRUE(usage.at("impetus").at("devices").at("decode").as_array().empty());
  const auto last = object(stream.last_choice_end(0, AnswerEnd::stop, {}, {{"cpu"}, {"gpu"}, {}}));
  EXPECT_EQ(only_choice(last).at("finish_reason"), "stop");
  EXPECT_EQ(last.at("impetus").at("device"), "cpu, gpu");
  EXPECT_FALSE(end.contains("impetus"));
}

TEST(AnswerStream, SaysNothingOfUsageWhereNotAsked) {
  AnswerHead plain = head();
  plain.include_usage = false;
  AnswerStream stream(plain);
  EXPECT_FALSE(object(stream.delta({0, "x", {}})).contains("usage"));
}

TEST(AnswerStream, CountsCompletionOffsets) {
  AnswerStream stream(head(AnswerKind::completion));
  stream.delta({1, "abc", {}});
  const auto next = object(stream.delta({1, "de", {{{1, "de", 0.0f}, {}}}}));
  EXPECT_EQ(next.at("object"), "text_completion");
  EXPECT_EQ(only_choice(next).at("text"), "de");
  EXPECT_EQ(only_choice(next).at("logprobs").at("text_offset").as_array().at(0), 3);
}

TEST(EmbeddingBody, GivesLittleEndianFloatsInBase64) {
  EmbedAnswer answer;
  answer.vectors = {{1.0f, -2.5f}};
  const auto body = object(embedding_body("e", answer, true));
  const auto& entry = body.at("data").as_array().at(0).as_object();
  const uint8_t bytes[] = {0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0};
  EXPECT_EQ(std::string(entry.at("embedding").as_string()), base64_encode(bytes, sizeof bytes));
  const auto plain = object(embedding_body("e", answer, false));
  EXPECT_EQ(plain.at("data").as_array().at(0).at("embedding").as_array().at(1), -2.5);
  EXPECT_EQ(object(legacy_embedding_body(answer)).at("embedding").as_array().size(), 2u);
}

TEST(ErrorBody, AlwaysHasItsFourFields) {
  Error failure = error(ErrorCode::context_length, "too long \xff");
  failure.param = "messages";
  const auto body = object(error_body(failure)).at("error").as_object();
  EXPECT_EQ(body.at("message"), "too long \xef\xbf\xbd");
  EXPECT_EQ(body.at("type"), "invalid_request_error");
  EXPECT_EQ(body.at("param"), "messages");
  EXPECT_EQ(body.at("code"), "context_length_exceeded");
  EXPECT_TRUE(
      object(error_body(error(ErrorCode::internal, "x"))).at("error").at("param").is_null());
  Error model = error(ErrorCode::not_found, "x");
  model.param = "model";
  EXPECT_EQ(wire_error(model).code, "model_not_found");
  EXPECT_EQ(wire_error(model).status, 404);
}

}  // namespace
}  // namespace impetus::api
