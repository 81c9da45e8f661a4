// What the program asks of its terminal and hears from it by signals.
#pragma once

#include <string>
#include <string_view>

namespace impetus {

// Columns of the terminal behind `fd`; 0 where it is none or does not say.
int terminal_columns(int fd);

// Whether sequences such as bold may be written to `fd`: a terminal that is not TERM=dumb, and no
// NO_COLOR (https://no-color.org).
bool styles_wanted(int fd);
// Whether lines can be edited on standard input and output: both are a terminal, not TERM=dumb.
bool editing_possible();

// The escape sequences of a style, or nothing at all.
struct Style {
  bool on = false;
  std::string_view dim() const { return on ? "\033[2m" : ""; }
  std::string_view bold() const { return on ? "\033[1m" : ""; }
  std::string_view plain() const { return on ? "\033[0m" : ""; }
  std::string dimmed(std::string_view text) const;
};

// While it lives, Ctrl-C ends nothing: it is noted here. One at a time in a program. Any thread may
// ask; the signals come where they come.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  bool take_interrupt();  // Ctrl-C since the last call
  bool take_resize();     // another size, or back from being stopped
  // Becomes readable with each signal; wait() empties it.
  int fd() const;
  void empty();
};

// While it lives, what is typed is kept for later and not shown. Signals still work. Harmless where
// standard input is no terminal.
class QuietInput {
 public:
  QuietInput();
  ~QuietInput();
  QuietInput(const QuietInput&) = delete;
  QuietInput& operator=(const QuietInput&) = delete;

 private:
  struct Saved;
  Saved* saved_ = nullptr;
};

}  // namespace impetus
