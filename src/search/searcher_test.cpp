#include "search/searcher.h"

#include <cmath>
#include <fstream>
#include <map>

#include <unistd.h>

#include <gtest/gtest.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

// Words to dimensions: texts that share words are near to each other.
class FakeEncoder {
 public:
  SearchEncoder encoder(const std::string& key = "fake") {
    return {.key = key,
            .limits = {.tokens_max = 40, .tokens_wanted = 12, .bytes_max = 4096},
            .count = [](std::string_view text) { return 1 + std::ranges::count(text, ' '); },
            .embed =
                [this](std::vector<std::string> texts) {
                  std::promise<Result<SearchEncoder::Vectors>> promise;
                  if (refuses) {
                    promise.set_value(error(ErrorCode::unavailable, "the device is lost"));
                  } else {
                    promise.set_value(embed(texts));
                  }
                  return promise.get_future();
                }};
  }
  std::vector<std::string> embedded;
  bool refuses = false;

 private:
  SearchEncoder::Vectors embed(const std::vector<std::string>& texts) {
    SearchEncoder::Vectors vectors;
    for (const std::string& text : texts) {
      embedded.push_back(text);
      EXPECT_FALSE(text.empty());
      std::vector<float> vector(64);
      std::string word;
      for (const char c : text + " ") {
        if (std::isalpha(static_cast<unsigned char>(c))) {
          word += static_cast<char>(std::tolower(c));
        } else if (!word.empty()) {
          vector[std::hash<std::string>{}(std::exchange(word, {})) % vector.size()] += 1;
        }
      }
      float length = 0;
      for (const float x : vector) length += x * x;
      for (float& x : vector) x /= std::sqrt(std::max(length, 1e-6f));
      vectors.push_back(std::move(vector));
    }
    return vectors;
  }
};

class SearcherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write("animals.txt",
          "Geese and ducks.\n\nThe heron stood in the reeds. The fox hid the lantern under the old "
          "bridge by the river. Nobody saw it go there at all.\n\nA dog barked at night and then "
          "it slept until the late morning came.\n");
    write("more/ships.txt", "The ship sailed to the island with silver and with salt.\n");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((texts_ / name).parent_path());
    std::ofstream(texts_ / name, std::ios::binary) << bytes;
  }
  SearchOptions options() const { return {.index_file = folder_ / "state" / "x.index"}; }
  Searcher searcher(const std::string& key = "fake") {
    return Searcher(fake_.encoder(key), options());
  }

  fs::path folder_ = fs::temp_directory_path() / ("impetus_searcher_" + std::to_string(::getpid()));
  fs::path texts_ = folder_ / "texts";
  FakeEncoder fake_;
};

TEST_F(SearcherTest, FindsThePassageAndItsBestSentence) {
  Searcher search = searcher();
  const auto report = search.update(texts_, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->files, 2);
  EXPECT_EQ(report->files_embedded, 2);
  EXPECT_EQ(report->passages, report->passages_embedded);
  EXPECT_TRUE(report->warnings.empty());
  const auto hits = search.ask("where is the fox's lantern under the bridge", 2);
  ASSERT_TRUE(hits.ok());
  ASSERT_EQ(hits->size(), 2u);
  const SearchHit& hit = hits->front();
  EXPECT_EQ(hit.file, texts_ / "animals.txt");
  EXPECT_EQ(hit.line, 3u);
  EXPECT_GT(hit.score, (*hits)[1].score);
  EXPECT_EQ(hit.text.substr(hit.best.begin, hit.best.size()),
            "The fox hid the lantern under the old bridge by the river.");
  EXPECT_EQ(hit.best_line, 3u);
}

TEST_F(SearcherTest, EmbedsOnlyWhatIsNew) {
  {
    ASSERT_TRUE(searcher().update(texts_, {}).ok());
  }
  fake_.embedded.clear();
  {
    Searcher search = searcher();
    const auto report = search.update(texts_, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->passages_embedded, 0);
    EXPECT_GT(report->passages, 0);
    EXPECT_TRUE(fake_.embedded.empty());
    EXPECT_EQ(search.ask("the ship with silver", 1)->front().file, texts_ / "more/ships.txt");
  }
  // Another name is not another content; a change is.
  fs::rename(texts_ / "animals.txt", texts_ / "renamed.txt");
  write("more/ships.txt", "The ship came home.\n");
  write("copy.txt", "The ship came home.\n");
  fake_.embedded.clear();
  Searcher search = searcher();
  const auto report = search.update(texts_, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->files, 3);
  EXPECT_EQ(fake_.embedded, std::vector<std::string>{"The ship came home."});
  const auto hits = search.ask("the ship came home", 9);
  EXPECT_EQ(std::ranges::count(*hits, "The ship came home.", &SearchHit::text), 1);
}

TEST_F(SearcherTest, ADamagedIndexIsMadeAnewWithAWord) {
  {
    ASSERT_TRUE(searcher().update(texts_, {}).ok());
  }
  fs::resize_file(options().index_file, 100);
  fake_.embedded.clear();
  {
    Searcher search = searcher();
    const auto report = search.update(texts_, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->files_embedded, 2);
    ASSERT_EQ(report->warnings.size(), 1u);
    EXPECT_NE(report->warnings[0].find("x.index: bytes were lost or changed; it is made anew"),
              std::string::npos)
        << report->warnings[0];
  }
  EXPECT_EQ(searcher().update(texts_, {})->files_embedded, 0);
  EXPECT_EQ(searcher("other").update(texts_, {})->files_embedded, 2);
}

TEST_F(SearcherTest, SaysWhatItPassedOver) {
  write("latin.txt", "caf\xe9");
  write("picture", std::string("P\0G", 3));
  write(".hidden", "x");
  write("blank.txt", " \n\n");
  Searcher search = searcher();
  const auto report = search.update(texts_, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->files, 3);
  EXPECT_EQ(report->hidden, 1);
  EXPECT_EQ(report->binary, 1);
  EXPECT_EQ(report->not_utf8, std::vector<std::string>{(texts_ / "latin.txt").string()});
  EXPECT_TRUE(search.ask("anything", 5).ok());
}

TEST_F(SearcherTest, AnEncodersErrorEndsItAndKeepsWhatWasDone) {
  {
    Searcher search = searcher();
    ASSERT_TRUE(search.update(texts_ / "more", {}).ok());
    fake_.refuses = true;
    EXPECT_EQ(search.update(texts_, {}).error().message, "the device is lost");
    EXPECT_FALSE(search.ask("x", 1).ok());
  }
  fake_.refuses = false;
  EXPECT_EQ(searcher().update(texts_, {})->files_embedded, 1);
}

TEST_F(SearcherTest, ManyBatchesComeTogetherAndProgressReachesTheEnd) {
  for (int i = 0; i < 40; ++i) {
    std::string text;
    for (int p = 0; p < i; ++p) {
      text += "Passage number " + std::string(1, static_cast<char>('a' + p % 26)) + " of file " +
              std::string(static_cast<size_t>(i + 1), 'q') + " which is long enough to stand.\n\n";
    }
    write("many/" + std::to_string(i), text);
  }
  SearchOptions few = options();
  few.batch_passages = 7;
  few.batches_max = 2;
  few.save_seconds = 0;
  Searcher search(fake_.encoder(), few);
  int64_t done = 0, total = -1;
  const auto report = search.update(texts_, [&](int64_t now, int64_t of) {
    EXPECT_GE(now, done);
    done = now;
    total = of;
  });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(done, total);
  const auto hits = search.ask("passage c of file " + std::string(31, 'q'), 1);
  ASSERT_TRUE(hits.ok());
  EXPECT_EQ(hits->front().file, texts_ / "many" / "30");
  EXPECT_EQ(hits->front().line, 5u);
}

TEST_F(SearcherTest, AFileThatChangedMeanwhileIsLeftOut) {
  Searcher search = searcher();
  ASSERT_TRUE(search.update(texts_, {}).ok());
  write("animals.txt", "Short.");
  const auto hits = search.ask("the fox hid the lantern", 9);
  ASSERT_TRUE(hits.ok());
  for (const SearchHit& hit : *hits) EXPECT_EQ(hit.file, texts_ / "more/ships.txt");
}

TEST_F(SearcherTest, AFolderThatCannotKeepTheIndexIsAWarning) {
  SearchOptions nowhere = options();
  nowhere.index_file = texts_ / "animals.txt" / "x.index";
  const auto report = Searcher(fake_.encoder(), nowhere).update(texts_, {});
  ASSERT_TRUE(report.ok());
  ASSERT_EQ(report->warnings.size(), 1u);
  EXPECT_NE(report->warnings[0].find("the index is not kept"), std::string::npos);
  nowhere.index_file.clear();
  EXPECT_TRUE(Searcher(fake_.encoder(), nowhere).update(texts_, {})->warnings.empty());
}

}  // namespace
}  // namespace impetus
