#include "terminal/conversation.h"

#include <gtest/gtest.h>

namespace impetus {
namespace {

// Counts a token a character.
Result<int64_t> count(const json::array& messages) {
  int64_t tokens = 0;
  for (const auto& message : messages) {
    tokens += static_cast<int64_t>(message.at("content").as_string().size());
  }
  return tokens;
}

Conversation three() {
  Conversation talk;
  talk.system = "ss";
  for (const char* question : {"1", "2", "3"}) {
    talk.ask(std::string("question ") + question);
    talk.answered(std::string("answer ") + question);
  }
  return talk;
}

TEST(Conversation, GivesItsMessagesInOrder) {
  Conversation talk = three();
  talk.ask("last");
  const json::array messages = talk.messages();
  ASSERT_EQ(messages.size(), 8u);
  EXPECT_EQ(messages[0], (json::object{{"role", "system"}, {"content", "ss"}}));
  EXPECT_EQ(messages[2], (json::object{{"role", "assistant"}, {"content", "answer 1"}}));
  EXPECT_EQ(messages[7], (json::object{{"role", "user"}, {"content", "last"}}));
  talk.unask();
  EXPECT_EQ(talk.messages().size(), 7u);
  talk.clear();
  EXPECT_EQ(talk.messages().size(), 1u);
}

TEST(Conversation, DropsTheOldestUntilItFits) {
  Conversation talk = three();
  talk.ask("last");  // 2 + 3 * 18 + 4 = 60
  EXPECT_EQ(*talk.make_room(count, 60), 0);
  EXPECT_EQ(*talk.make_room(count, 59), 1);
  EXPECT_EQ(talk.messages()[1].at("content"), "question 2");
  EXPECT_EQ(*talk.make_room(count, 0), 2);  // the question itself and the system message stay
  ASSERT_EQ(talk.messages().size(), 2u);
  EXPECT_EQ(talk.messages()[1].at("content"), "last");
  EXPECT_FALSE(talk.drop_oldest());
}

TEST(Conversation, PassesOnWhatCountingSays) {
  Conversation talk = three();
  const auto refuses = [](const json::array&) -> Result<int64_t> {
    return error(ErrorCode::unsupported, "no template");
  };
  EXPECT_EQ(talk.make_room(refuses, 10).error().message, "no template");
  EXPECT_EQ(talk.exchanges(), 3u);
}

TEST(Conversation, IsSavedAndRestored) {
  const Conversation talk = three();
  Conversation other;
  ASSERT_TRUE(other.restore(json::object{{"messages", talk.messages()}}).ok());
  EXPECT_EQ(other.messages(), talk.messages());
  EXPECT_EQ(other.system, "ss");
}

TEST(Conversation, RestoresNothingOutOfTurn) {
  for (const char* text :
       {"[]", "{}", R"({"messages": 1})", R"({"messages": [1]})",
        R"({"messages": [{"role": "assistant", "content": "a"}]})",
        R"({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})",
        R"({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]})",
        R"({"messages": [{"role": "user", "content": 3}]})", R"({"messages": [{"role": "user"}]})",
        R"({"messages": [{"content": "a"}]})"}) {
    Conversation talk = three();
    const auto restored = talk.restore(*parse_json(text));
    EXPECT_FALSE(restored.ok()) << text;
    EXPECT_EQ(talk.messages(), three().messages()) << text;
  }
}

}  // namespace
}  // namespace impetus
