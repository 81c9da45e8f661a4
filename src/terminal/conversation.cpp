#include "terminal/conversation.h"

#include <cassert>

namespace impetus {

void Conversation::ask(std::string question) {
  assert(!open_);
  exchanges_.push_back({std::move(question), {}});
  open_ = true;
}

void Conversation::answered(std::string answer) {
  assert(open_);
  exchanges_.back().answer = std::move(answer);
  open_ = false;
}

void Conversation::unask() {
  if (open_) exchanges_.pop_back();
  open_ = false;
}

void Conversation::clear() {
  exchanges_.clear();
  open_ = false;
}

json::array Conversation::messages() const {
  json::array messages;
  const auto add = [&](std::string_view role, const std::string& content) {
    messages.push_back(json::object{{"role", role}, {"content", content}});
  };
  if (!system.empty()) add("system", system);
  for (const Exchange& exchange : exchanges_) {
    add("user", exchange.question);
    if (!open_ || &exchange != &exchanges_.back()) add("assistant", exchange.answer);
  }
  return messages;
}

bool Conversation::drop_oldest() {
  if (exchanges_.size() <= (open_ ? 1u : 0u)) return false;
  exchanges_.erase(exchanges_.begin());
  return true;
}

Result<int64_t> Conversation::make_room(const Count& count, int64_t tokens_max) {
  for (int64_t dropped = 0;; ++dropped) {
    IMPETUS_TRY(const int64_t tokens, count(messages()));
    if (tokens <= tokens_max || !drop_oldest()) return dropped;
  }
}

Result<void> Conversation::restore(const json::value& saved) {
  const json::object* object = saved.if_object();
  const json::value* messages = object ? object->if_contains("messages") : nullptr;
  if (messages == nullptr || !messages->is_array()) {
    return error(ErrorCode::invalid_argument, "there is no \"messages\" array in it");
  }
  Conversation read;
  for (size_t i = 0; i < messages->get_array().size(); ++i) {
    const json::object* message = messages->get_array()[i].if_object();
    if (message == nullptr) {
      return error(ErrorCode::invalid_argument, "message {} is no object", i + 1);
    }
    IMPETUS_TRY(const auto role, string_field(*message, "role"));
    IMPETUS_TRY(auto content, string_field(*message, "content"));
    const bool fits = content && (role == "system"      ? i == 0
                                  : role == "user"      ? !read.open_
                                  : role == "assistant" ? read.open_
                                                        : false);
    if (!fits) {
      return error(ErrorCode::invalid_argument,
                   "message {} ({}) is out of turn: one system message may come first, then user "
                   "and assistant by turns, each with its \"content\"",
                   i + 1, role.value_or("without a role"));
    }
    if (role == "system") read.system = std::move(*content);
    if (role == "user") read.ask(std::move(*content));
    if (role == "assistant") read.answered(std::move(*content));
  }
  read.unask();  // a question without its answer
  *this = std::move(read);
  return {};
}

}  // namespace impetus
