// A chat's memory: what was said, as the messages of a request; what is let go of when the model's
// context is full. Not thread-shared; no model, no terminal.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace impetus {

class Conversation {
 public:
  std::string system;  // empty: none

  // Opens an exchange. REQUIRES: none is open.
  void ask(std::string question);
  // Closes it.
  void answered(std::string answer);
  // Takes the open exchange back, as if it had not been asked.
  void unask();
  void clear();  // all exchanges; the system message stays

  size_t exchanges() const { return exchanges_.size(); }
  // [{"role": ..., "content": ...}], the open question last.
  json::array messages() const;

  // Drops the oldest exchange; false where there is none but the open one.
  bool drop_oldest();
  // Drops oldest exchanges until `count` says at most `tokens_max`, or none but the open one is
  // left. How many went.
  using Count = std::function<Result<int64_t>(const json::array& messages)>;
  Result<int64_t> make_room(const Count& count, int64_t tokens_max);

  // Replaces all by {"messages": [...]}: at most one system message, in front; then user and
  // assistant by turns. invalid_argument that says which message is none of these; then nothing
  // has changed.
  Result<void> restore(const json::value& saved);

 private:
  struct Exchange {
    std::string question, answer;
  };
  std::vector<Exchange> exchanges_;
  bool open_ = false;
};

}  // namespace impetus
