#include "runtime/embedding_lanes.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

namespace impetus {
namespace {

// A request's parts on several lanes, until the last has ended. Holds no lane: their destructors
// call it.
class Join {
 public:
  Join(size_t texts, size_t parts, EmbeddingLane::Done done)
      : parts_(parts), missing_(parts), done_(std::move(done)) {
    answer_.vectors.resize(texts);
  }

  void end(size_t part, const std::vector<size_t>& places, Result<EmbeddingLane::Answer> result) {
    {
      const std::lock_guard lock(mutex_);
      if (result.ok()) {
        for (size_t i = 0; i < places.size(); ++i) {
          answer_.vectors[places[i]] = std::move(result->vectors[i]);
        }
        // Copies: that lane's encoder may go before the other lanes are done.
        for (const BackendDescriptor* one : result->ran_on) parts_[part].push_back(*one);
      } else if (!failure_) {
        failure_ = std::move(result).error();
      }
      if (--missing_ > 0) return;
    }
    if (failure_) return done_(std::move(*failure_));
    for (const auto& ran_on : parts_) {
      for (const BackendDescriptor& one : ran_on) {
        const auto same = [&](const auto* other) { return other->backend == one.backend; };
        if (std::ranges::none_of(answer_.ran_on, same)) answer_.ran_on.push_back(&one);
      }
    }
    done_(std::move(answer_));
  }

 private:
  std::mutex mutex_;
  std::vector<std::vector<BackendDescriptor>> parts_;
  size_t missing_;
  EmbeddingLane::Answer answer_;
  std::optional<Error> failure_;
  EmbeddingLane::Done done_;
};

}  // namespace

void EmbeddingLanes::add(std::unique_ptr<EmbeddingLane> lane) {
  lanes_.push_back(std::move(lane));
}

Result<std::function<void()>> EmbeddingLanes::submit(EmbeddingLane::Request request,
                                                     EmbeddingLane::Done done) {
  struct Part {
    EmbeddingLane* lane = nullptr;
    EmbeddingLane::Request request = {};
    std::vector<size_t> places = {};  // of its texts in the whole
  };
  std::vector<Part> parts;
  std::vector<size_t> part_of(lanes_.size(), SIZE_MAX);
  const bool typed = request.token_types.size() == request.texts.size();
  for (size_t t = 0; t < request.texts.size(); ++t) {
    const auto tokens = static_cast<int64_t>(request.texts[t].size());
    size_t lane = 0;  // the last one says that a text is too long
    while (lane + 1 < lanes_.size() && lanes_[lane]->text_tokens_max() < tokens) ++lane;
    if (part_of[lane] == SIZE_MAX) {
      part_of[lane] = parts.size();
      parts.emplace_back().lane = lanes_[lane].get();
      parts.back().request.output = request.output;
    }
    parts[part_of[lane]].places.push_back(t);
  }
  const auto cancel = [](EmbeddingLane* lane, uint64_t id) {
    return [lane, id] { lane->cancel(id); };
  };
  if (parts.size() <= 1) {
    EmbeddingLane* lane = parts.empty() ? lanes_.front().get() : parts.front().lane;
    IMPETUS_TRY(const uint64_t id, lane->submit(std::move(request), std::move(done)));
    return std::function<void()>(cancel(lane, id));
  }
  const auto join = std::make_shared<Join>(request.texts.size(), parts.size(), std::move(done));
  std::vector<std::function<void()>> cancels;
  for (size_t p = 0; p < parts.size(); ++p) {
    Part& part = parts[p];
    for (const size_t t : part.places) {
      part.request.texts.push_back(std::move(request.texts[t]));
      if (typed) part.request.token_types.push_back(std::move(request.token_types[t]));
    }
    auto id = part.lane->submit(std::move(part.request),
                                [join, p, places = std::move(part.places)](auto result) {
                                  join->end(p, places, std::move(result));
                                });
    if (!id.ok()) {
      // The join waits for a part that was never begun: it stays silent.
      for (const auto& one : cancels) one();
      return std::move(id).error();
    }
    cancels.push_back(cancel(part.lane, *id));
  }
  return std::function<void()>([cancels = std::move(cancels)] {
    for (const auto& one : cancels) one();
  });
}

void EmbeddingLanes::close() {
  for (const auto& lane : lanes_) lane->close();
}

EmbeddingLane::Counts EmbeddingLanes::counts() const {
  EmbeddingLane::Counts sum;
  for (const auto& lane : lanes_) {
    const auto one = lane->counts();
    sum.waiting_texts += one.waiting_texts;
    sum.texts += one.texts;
    sum.tokens += one.tokens;
    sum.moved += one.moved;
  }
  return sum;
}

bool EmbeddingLanes::waits() const {
  return std::ranges::any_of(lanes_, [](const auto& lane) { return lane->waits(); });
}

}  // namespace impetus
