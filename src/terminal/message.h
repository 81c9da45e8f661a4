// What a person types in a chat: messages of one or many lines, and commands. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace impetus {

// Lines to messages: """ opens a block that the next """ at a line's end closes; a backslash at the
// end of a line goes on in the next one.
class MessageReader {
 public:
  // Takes a line (a pasted one may hold line ends); a message where that completes one.
  std::optional<std::string> push(std::string_view line);
  // Amidst a message: the next line belongs to it.
  bool open() const { return open_; }
  void reset();

 private:
  std::string text_;
  bool open_ = false;
  bool block_ = false;
};

// "/set temperature 0.7": name "set", argument "temperature 0.7". A path such as /usr/bin is none.
struct ChatCommand {
  std::string name;
  std::string argument;  // without spaces around it
};
std::optional<ChatCommand> parse_command(std::string_view message);

std::string_view trimmed(std::string_view text);

}  // namespace impetus
