#include "terminal/message.h"

#include <algorithm>
#include <utility>

namespace impetus {
namespace {

constexpr std::string_view kBlock = "\"\"\"";

}  // namespace

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n";
  const size_t from = text.find_first_not_of(blank);
  if (from == text.npos) return {};
  return text.substr(from, text.find_last_not_of(blank) - from + 1);
}

void MessageReader::reset() {
  *this = {};
}

std::optional<std::string> MessageReader::push(std::string_view line) {
  const auto complete = [this] {
    std::string message = std::move(text_);
    reset();
    return message;
  };
  if (!open_ && trimmed(line).starts_with(kBlock)) {
    open_ = block_ = true;
    line.remove_prefix(line.find(kBlock) + kBlock.size());
    if (trimmed(line).empty()) return std::nullopt;  // the text begins on the next line
  } else if (open_) {
    text_ += text_.empty() && block_ ? "" : "\n";
  }
  if (block_) {
    const std::string_view end = line.substr(0, line.find_last_not_of(" \t\r\n") + 1);
    if (!end.ends_with(kBlock)) {
      text_ += line;
      return std::nullopt;
    }
    text_ += end.substr(0, end.size() - kBlock.size());
    if (text_.ends_with('\n')) text_.pop_back();
    return complete();
  }
  // An even number of backslashes is an end that was meant.
  const size_t text = line.find_last_not_of('\\') + 1;
  open_ = (line.size() - text) % 2 == 1;
  text_ += line.substr(0, line.size() - (open_ ? 1 : 0));
  if (open_) return std::nullopt;
  return complete();
}

std::optional<ChatCommand> parse_command(std::string_view message) {
  message = trimmed(message);
  if (!message.starts_with('/')) return std::nullopt;
  const size_t end = std::min(message.find_first_of(" \t\n"), message.size());
  const std::string_view name = message.substr(1, end - 1);
  if (name.find_first_not_of("abcdefghijklmnopqrstuvwxyz?") != name.npos) return std::nullopt;
  return ChatCommand{std::string(name), std::string(trimmed(message.substr(end)))};
}

}  // namespace impetus
