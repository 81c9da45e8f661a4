// Text of others (a model's answer, a file's passage) on a person's terminal: words wrapped at its
// width, and nothing in it that the terminal would obey.
//
// Not thread-shared. Text may come in pieces cut anywhere. A word leaves when it is whole, so that
// a line never has to be taken back.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace impetus {

// Appends what a terminal shows of `code` and does not obey: controls (escape, bell, backspace, C1)
// as their pictures, marks that turn the direction of what follows as U+FFFD.
void append_harmless(std::string& out, uint32_t code);
// The same of a whole text, whose invalid UTF-8 is repaired; line ends and tabs are controls too.
std::string harmless(std::string_view text);

class TextWriter {
 public:
  using Out = std::function<void(std::string_view)>;
  // Columns of the terminal at this moment; 0: unknown, nothing is wrapped.
  using Width = std::function<int()>;

  TextWriter(Out out, Width width, int indent = 0)
      : out_(std::move(out)), width_(std::move(width)), indent_(indent) {}

  void push(std::string_view text);
  // A sequence of the program's own for the terminal (bold, plain): takes no column, goes out as it
  // is, in its place.
  void mark(std::string_view sequence);
  // What is left. The writer may then begin a new text.
  void finish();

 private:
  void push_code(uint32_t code);
  void add_to_word(uint32_t code);
  void flush_word();
  void end_line();
  void emit(std::string_view text, int columns);
  int usable() const;

  Out out_;
  Width width_;
  int indent_;
  std::string unfinished_;  // the beginning of a UTF-8 sequence
  std::string word_;        // held back
  int word_columns_ = 0;
  int spaces_ = 0;  // between the last word that left and this one
  int column_ = 0;
  uint32_t last_code_ = 0;   // of the text
  std::string line_start_;   // of the text's own line: finds the fences of code
  bool verbatim_ = false;    // within a fence: lines stay as they are
  std::string pending_out_;  // gathered, so that one push is one write
};

}  // namespace impetus
