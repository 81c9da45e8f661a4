// A line that a person types, with what they expect of one: the arrows, word moves, history and its
// search (Ctrl-R), paste as a whole. libedit behind (docs/decisions/0003-libedit.md); ~/.editrc is
// read.
//
// One in a program, on standard input and output, on one thread. Where no line can be edited (a
// pipe, TERM=dumb) it reads plain lines.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "terminal/terminal.h"

namespace impetus {

class LineEditor {
 public:
  // `history`: the file of what was typed before; empty: none is kept. `signals` outlives this.
  static std::unique_ptr<LineEditor> open(const std::filesystem::path& history, Signals& signals);
  virtual ~LineEditor() = default;

  enum class Got {
    line,
    interrupted,  // Ctrl-C; `line` is what stood there
    end,          // Ctrl-D on an empty line, or the input's end
  };
  // The line without its end; valid UTF-8 without control characters but line ends (of a paste,
  // or by Alt-Enter) and tabs.
  virtual Got read(const std::string& prompt, std::string& line) = 0;
  // Keeps an entry for the arrows; at once in the file as well, where that can be written.
  virtual void remember(const std::string& entry) = 0;
};

}  // namespace impetus
