#include "search/searcher.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <tuple>
#include <unordered_set>

#include "base/timing.h"
#include "tensor/dtype.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDay = 24 * 60 * 60;

int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Every f16 as f32: ranking reads each number of the index once.
const std::vector<float>& half_table() {
  static const std::vector<float> table = [] {
    std::vector<float> values(1 << 16);
    for (uint32_t i = 0; i < values.size(); ++i) values[i] = f16_to_f32(static_cast<uint16_t>(i));
    return values;
  }();
  return table;
}

float dot(const std::vector<float>& a, const std::vector<float>& b) {
  float sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

// Contents on their way through the encoder.
class Searcher::Embedding {
 public:
  Embedding(Searcher& owner, const Progress& progress, int64_t total)
      : owner_(owner), progress_(progress), total_(total) {}

  Result<void> add(const ContentHash& content, const std::string& text) {
    auto job = std::make_shared<Job>();
    job->content = content;
    job->bytes = static_cast<int64_t>(text.size());
    job->entry.used = now_seconds();
    job->entry.passages = split_passages(text, owner_.encoder_.count, owner_.encoder_.limits);
    job->missing = job->entry.passages.size();
    for (size_t i = 0; i < job->entry.passages.size(); ++i) {
      const Passage& one = job->entry.passages[i];
      texts_.push_back(text.substr(one.offset, one.bytes));
      rows_.push_back({job, i});
      if (texts_.size() >= owner_.options_.batch_passages) IMPETUS_CHECK(send());
    }
    if (job->missing == 0) finish(*job);  // nothing but white space
    return {};
  }
  Result<void> finish() {
    IMPETUS_CHECK(send());
    while (!batches_.empty()) IMPETUS_CHECK(receive());
    return {};
  }

  int64_t contents = 0, passages = 0, bytes = 0;  // done

 private:
  struct Job {
    ContentHash content;
    IndexEntry entry;
    size_t missing = 0;
    int64_t bytes = 0;
  };
  struct Row {
    std::shared_ptr<Job> job;
    size_t passage;
  };
  struct Batch {
    std::future<Result<SearchEncoder::Vectors>> vectors;
    std::vector<Row> rows;
  };

  Result<void> send() {
    if (texts_.empty()) return {};
    batches_.push_back(
        {owner_.encoder_.embed(std::exchange(texts_, {})), std::exchange(rows_, {})});
    while (batches_.size() > owner_.options_.batches_max) IMPETUS_CHECK(receive());
    return {};
  }

  Result<void> receive() {
    Batch batch = std::move(batches_.front());
    batches_.pop_front();
    IMPETUS_TRY(const auto vectors, batch.vectors.get());
    if (vectors.size() != batch.rows.size()) {
      return error(ErrorCode::internal, "the encoder gave {} vectors for {} texts", vectors.size(),
                   batch.rows.size());
    }
    for (size_t i = 0; i < vectors.size(); ++i) {
      Job& job = *batch.rows[i].job;
      const size_t width = vectors[i].size();
      std::vector<uint16_t>& to = job.entry.vectors;
      to.resize(job.entry.passages.size() * width);
      std::ranges::transform(
          vectors[i], to.begin() + static_cast<std::ptrdiff_t>(batch.rows[i].passage * width),
          f32_to_f16);
      if (--job.missing == 0) finish(job);
    }
    return {};
  }

  void finish(Job& job) {
    ++contents;
    passages += static_cast<int64_t>(job.entry.passages.size());
    bytes += job.bytes;
    owner_.index_.put(job.content, std::move(job.entry));
    if (progress_) progress_(bytes, total_);
  }

  Searcher& owner_;
  const Progress& progress_;
  const int64_t total_;
  std::vector<std::string> texts_;
  std::vector<Row> rows_;
  std::deque<Batch> batches_;
};

Searcher::Searcher(SearchEncoder encoder, SearchOptions options)
    : encoder_(std::move(encoder)),
      options_(std::move(options)),
      index_(fmt::format("{}\ntokens {} {} bytes {}", encoder_.key, encoder_.limits.tokens_max,
                         encoder_.limits.tokens_wanted, encoder_.limits.bytes_max)) {}

void Searcher::keep(SearchReport& report) {
  if (options_.index_file.empty()) return;
  const auto left_out = index_.save(options_.index_file, options_.index_bytes_max);
  if (!left_out.ok()) {
    report.warnings.push_back("the index is not kept: " + left_out.error().message);
  } else if (*left_out > 0) {
    report.warnings.push_back(
        fmt::format("the index is kept up to {} MB: {} contents are embedded again next time",
                    options_.index_bytes_max >> 20, *left_out));
  }
}

Result<SearchReport> Searcher::update(const fs::path& root, const Progress& progress) {
  SearchReport report;
  if (!std::exchange(loaded_, true) && !options_.index_file.empty()) {
    if (const auto loaded = index_.load(options_.index_file); !loaded.ok()) {
      report.warnings.push_back(loaded.error().message + "; it is made anew");
    }
  }
  IMPETUS_TRY(const FoundFiles found, find_files(root));
  report.hidden = found.hidden;
  report.unreadable = found.unreadable;
  int64_t total = 0;
  for (const fs::path& path : found.files) {
    std::error_code code;
    const auto size = fs::file_size(path, code);
    if (!code) total += static_cast<int64_t>(size);
  }

  files_.clear();
  Embedding embedding(*this, progress, total);
  std::unordered_set<ContentHash, ContentHashes> seen;
  Result<void> embedded;
  const int64_t now = now_seconds();
  bool stale = false;  // the file does not say that these were used today
  auto saved = std::chrono::steady_clock::now();
  for (const fs::path& path : found.files) {
    auto file = read_text_file(path);
    if (!file.ok()) {
      report.unreadable.push_back(file.error().message);
      continue;
    }
    if (file->kind == TextFile::Kind::binary) ++report.binary;
    if (file->kind == TextFile::Kind::not_utf8) report.not_utf8.push_back(path.string());
    if (file->kind == TextFile::Kind::too_large) report.too_large.push_back(path.string());
    if (file->kind != TextFile::Kind::text) continue;
    const ContentHash content = sha256(file->text);
    files_.push_back({path, content});
    if (!seen.insert(content).second) continue;
    if (const IndexEntry* known = index_.find(content)) {
      stale |= now - known->used > kDay;
      index_.touch(content, now);
      continue;
    }
    embedded = embedding.add(content, file->text);
    if (!embedded.ok()) break;
    if (seconds_since(saved) > options_.save_seconds) {
      keep(report);
      saved = std::chrono::steady_clock::now();
    }
  }
  if (embedded.ok()) embedded = embedding.finish();
  if (embedding.contents > 0 || stale) keep(report);
  if (!embedded.ok()) {
    files_.clear();
    return embedded.error();
  }
  report.files = static_cast<int64_t>(files_.size());
  report.files_embedded = embedding.contents;
  report.passages_embedded = embedding.passages;
  report.bytes_embedded = embedding.bytes;
  for (const File& file : files_) {
    report.passages += static_cast<int64_t>(index_.find(file.content)->passages.size());
  }
  return report;
}

Result<std::vector<SearchHit>> Searcher::ask(const std::string& question, int64_t top) const {
  IMPETUS_TRY(const auto asked, encoder_.embed({question}).get());
  const std::vector<float>& target = asked.at(0);

  struct Scored {
    float score;
    uint32_t file, passage;
  };
  std::vector<Scored> scored;
  const std::vector<float>& half = half_table();
  std::unordered_set<ContentHash, ContentHashes> seen;
  for (uint32_t f = 0; f < files_.size(); ++f) {
    if (!seen.insert(files_[f].content).second) continue;  // the same text under another name
    const IndexEntry& entry = *index_.find(files_[f].content);
    if (entry.vectors.size() != entry.passages.size() * target.size()) {
      return error(ErrorCode::internal,
                   "the index has vectors of another size than the question's");
    }
    const uint16_t* row = entry.vectors.data();
    for (uint32_t p = 0; p < entry.passages.size(); ++p, row += target.size()) {
      float sum = 0;
      for (size_t i = 0; i < target.size(); ++i) sum += half[row[i]] * target[i];
      scored.push_back({sum, f, p});
    }
  }
  std::ranges::sort(scored, [](const Scored& a, const Scored& b) {
    return std::tuple(-a.score, a.file, a.passage) < std::tuple(-b.score, b.file, b.passage);
  });

  std::vector<SearchHit> hits;
  std::vector<const Scored*> chosen;
  std::vector<std::string> texts;  // the sentences of all hits
  std::vector<std::vector<TextRange>> parts;
  for (const Scored& one : scored) {
    if (static_cast<int64_t>(hits.size()) >= top) break;
    const File& file = files_[one.file];
    const Passage& passage = index_.find(file.content)->passages[one.passage];
    const bool shared = std::ranges::any_of(chosen, [&](const Scored* other) {
      const Passage& its = index_.find(files_[other->file].content)->passages[other->passage];
      return other->file == one.file && passage.offset < its.offset + its.bytes &&
             its.offset < passage.offset + passage.bytes;
    });
    if (shared) continue;
    const auto now = read_text_file(file.path);
    if (!now.ok() || sha256(now->text) != file.content) continue;
    SearchHit hit{file.path, passage.line,
                  one.score, now->text.substr(passage.offset, passage.bytes),
                  {},        passage.line};
    parts.push_back(sentences(hit.text));
    if (parts.back().size() < 2) parts.back().clear();
    for (const TextRange& part : parts.back()) {
      texts.push_back(hit.text.substr(part.begin, part.size()));
    }
    hits.push_back(std::move(hit));
    chosen.push_back(&one);
  }
  if (texts.empty()) return hits;
  IMPETUS_TRY(const auto vectors, encoder_.embed(std::move(texts)).get());
  size_t row = 0;
  for (size_t i = 0; i < hits.size(); ++i) {
    float best = -2;
    for (const TextRange& part : parts[i]) {
      const float score = dot(vectors.at(row++), target);
      if (score <= best) continue;
      best = score;
      hits[i].best = part;
    }
    hits[i].best_line += static_cast<uint32_t>(
        std::count(hits[i].text.begin(),
                   hits[i].text.begin() + static_cast<std::ptrdiff_t>(hits[i].best.begin), '\n'));
  }
  return hits;
}

}  // namespace impetus
