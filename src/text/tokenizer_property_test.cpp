// What must hold for any text: round trips, streaming, threads, time on hostile input.
#include <time.h>

#include <functional>
#include <thread>

#include "text/byte_level.h"
#include "text/tokenizer_test_util.h"
#include "text/unicode.h"

namespace impetus {
namespace {

using namespace testing;

struct Named {
  const char* name;
  std::function<std::unique_ptr<Tokenizer>()> load;
  const char* needs;
};

const Named byte_level_models[] = {
    {"gpt2", load_gpt2, "gpt2"},
    {"llama3", [] { return must(llama3_gguf().load()); }, "llama3"},
};
const Named all_models[] = {
    byte_level_models[0],
    byte_level_models[1],
    {"qwen2", load_qwen2, "qwen2.5"},
    {"llama2", load_llama2, "llama2"},
    {"bert", load_bert, "bert-uncased"},
};

TEST(TokenizerProperty, ByteLevelComesBackByteForByte) {
  for (const auto& model : byte_level_models) {
    IMPETUS_NEED_DATA(tokenizer_data() / model.needs);
    const auto tokenizer = model.load();
    std::mt19937_64 random(3);
    for (int round = 0; round < 3000; ++round) {
      std::string text = random_text(random, random() % 60);
      if (round % 3 == 1) text = random_bytes(random, random() % 60);
      if (round % 3 == 2) text += random_bytes(random, 3) + text + random_bytes(random, 1);
      const auto ids = tokenizer->encode(text);
      ASSERT_EQ(tokenizer->decode(ids), text) << model.name << " round " << round;
      for (const TokenId id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer->vocab_size());
    }
  }
}

TEST(TokenizerProperty, SentencePieceComesBackForValidText) {
  IMPETUS_NEED_DATA(tokenizer_data() / "llama2");
  const auto tokenizer = load_llama2();
  std::mt19937_64 random(4);
  for (int round = 0; round < 3000; ++round) {
    const std::string text = random_text(random, random() % 60);
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << round;
  }
  // Invalid bytes become U+FFFD, one each.
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xFF\xC3z")), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(TokenizerProperty, StreamedBytesSumToTheDecodedText) {
  for (const auto& model : all_models) {
    IMPETUS_NEED_DATA(tokenizer_data() / model.needs);
    const auto tokenizer = model.load();
    std::mt19937_64 random(5);
    for (int round = 0; round < 500; ++round) {
      std::vector<TokenId> ids(random() % 20);
      for (TokenId& id : ids) {
        id = static_cast<TokenId>(random() % (static_cast<uint64_t>(tokenizer->vocab_size()) + 3)) -
             1;
      }
      for (const bool special : {false, true}) {
        // The first visible token loses what decode() drops in front; the others add token_bytes.
        std::string sum;
        bool first = true;
        for (const TokenId id : ids) {
          const bool visible =
              id >= 0 && id < tokenizer->vocab_size() && (special || !tokenizer->is_control(id));
          sum += first && visible ? tokenizer->decode(std::span(&id, 1), special)
                                  : tokenizer->token_bytes(id, special);
          if (visible) first = false;
        }
        ASSERT_EQ(sum, tokenizer->decode(ids, special)) << model.name << " round " << round;
      }
    }
    EXPECT_EQ(tokenizer->token_bytes(-1), "");
    EXPECT_EQ(tokenizer->token_bytes(tokenizer->vocab_size()), "");
    EXPECT_EQ(tokenizer->piece(-7), "");
    EXPECT_FALSE(tokenizer->is_control(1 << 30));
  }
}

TEST(TokenizerProperty, PiecesAreFound) {
  for (const auto& model : all_models) {
    IMPETUS_NEED_DATA(tokenizer_data() / model.needs);
    const auto tokenizer = model.load();
    for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
      if (!tokenizer->piece(id).empty()) {
        ASSERT_EQ(tokenizer->find(tokenizer->piece(id)), id) << model.name;
      }
    }
    EXPECT_FALSE(tokenizer->find("no such piece anywhere").has_value());
  }
}

// A merge done by hand: apply the best pair of the whole word again and again, scanning.
TEST(TokenizerProperty, LongWordsMergeAsTheDefinitionSays) {
  IMPETUS_NEED_DATA(tokenizer_data() / "gpt2");
  const auto tokenizer = load_gpt2();
  const auto source = read_vocab_and_merges(tokenizer_data() / "gpt2" / "vocab.json",
                                            tokenizer_data() / "gpt2" / "merges.txt");
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < source.merges.size(); ++i) {
    const size_t space = source.merges[i].find(' ');
    ranks[{source.merges[i].substr(0, space), source.merges[i].substr(space + 1)}] = i;
  }
  std::mt19937_64 random(6);
  for (int round = 0; round < 200; ++round) {
    // Letters only: one word, from a small alphabet so that merges abound.
    std::string word(2 + random() % 300, 'a');
    for (char& c : word) c = "aeinorst"[random() % (1 + static_cast<size_t>(round) % 8)];
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    while (true) {
      size_t best = SIZE_MAX, at = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks.find({symbols[i], symbols[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = i;
      }
      if (best == SIZE_MAX) break;
      symbols[at] += symbols[at + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    std::vector<TokenId> expected;
    for (const auto& symbol : symbols) expected.push_back(*tokenizer->find(symbol));
    ASSERT_EQ(tokenizer->encode(word), expected) << word;
  }
}

TEST(TokenizerProperty, ThreadsGetTheSameIds) {
  for (const auto& model : all_models) {
    IMPETUS_NEED_DATA(tokenizer_data() / model.needs);
    const auto tokenizer = model.load();
    std::mt19937_64 random(8);
    std::vector<std::string> texts;
    std::vector<std::vector<TokenId>> expected;
    for (int i = 0; i < 200; ++i) {
      texts.push_back(random_text(random, 50) + " the same words the same words");
      expected.push_back(tokenizer->encode(texts.back()));
    }
    std::vector<int> wrong(4);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (size_t k = 0; k < texts.size() * 3; ++k) {
          const size_t i = (k * 7 + t * 13) % texts.size();
          const auto ids = tokenizer->encode(texts[i]);
          if (ids != expected[i] || tokenizer->decode(ids) != tokenizer->decode(expected[i]))
            ++wrong[t];
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4)) << model.name;
  }
}

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr double seconds_allowed = 60;
#else
constexpr double seconds_allowed = 5;
#endif

// Text that makes a careless implementation quadratic: then it needs minutes, else well under a
// second of processor time.
TEST(TokenizerProperty, HostileTextIsFast) {
  const auto repeated = [](std::string_view unit) {
    std::string text;
    while (text.size() < (1u << 18)) text += unit;
    return text;
  };
  const std::string texts[] = {
      repeated("a"),
      repeated(" "),
      repeated("\n"),
      repeated("A"),
      repeated("0"),
      repeated("'"),
      repeated("\xE2\x96\x81"),
      repeated("\xCC\x95\xCC\x80"),
      repeated("\xF0\x9F\x98\x80"),
      repeated("\xFF"),
      repeated("<|"),
      repeated("ab"),
      repeated(" \n"),
      repeated("<"),
      repeated("\xE4\xBD\xA0"),
      repeated("\xC2\xA0"),
      repeated("!"),
      "\n" + repeated(" ") + "x",
      repeated("[CLS]"),
  };
  for (const auto& model : all_models) {
    IMPETUS_NEED_DATA(tokenizer_data() / model.needs);
    const auto tokenizer = model.load();
    for (const auto& text : texts) {
      const double start = thread_seconds();
      const auto ids = tokenizer->encode(text, {.add_special = true, .parse_special = true});
      EXPECT_LT(thread_seconds() - start, seconds_allowed)
          << model.name << ": \"" << text.substr(0, 8) << "...\"";
      EXPECT_FALSE(ids.empty());
    }
  }
}

TEST(ByteLevel, SpellsEveryByteAndBack) {
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  std::string back;
  ASSERT_TRUE(byte_level::unspell(byte_level::spell(all), back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(byte_level::spell(" \n"), "\xC4\xA0\xC4\x8A");
  EXPECT_FALSE(byte_level::unspell(" ", back));
  EXPECT_FALSE(byte_level::unspell("\xFF", back));
}

}  // namespace
}  // namespace impetus
