#include "terminal/line_editor.h"

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cwchar>
#include <cwctype>

#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <histedit.h>

#include "base/log.h"
#include "base/utf8.h"
#include "terminal/input_history.h"
#include "text/unicode.h"

namespace impetus {
namespace {

// wchar_t is UTF-32 on every system that this is built for.
static_assert(sizeof(wchar_t) == 4);

constexpr std::string_view kPasteOn = "\033[?2004h", kPasteOff = "\033[?2004l";
constexpr std::wstring_view kPasteEnd = L"\033[201~";

std::wstring wide(std::string_view text) {
  const std::string valid = repair_utf8(text);
  std::wstring out;
  for (size_t at = 0; at < valid.size();) {
    const auto [code, bytes] = unicode::decode(valid.data() + at);
    out += static_cast<wchar_t>(code);
    at += bytes;
  }
  return out;
}

std::string narrow(std::wstring_view text) {
  std::string out;
  for (const wchar_t c : text) {
    const auto code = static_cast<uint32_t>(c);
    if (code < 0x20 && code != '\n' && code != '\t') continue;
    if (code == 0x7F || (code >= 0x80 && code < 0xA0)) continue;
    unicode::append(out, code);
  }
  return out;
}

// libedit shows characters as the locale says: without one of UTF-8 it would show numbers.
void want_utf8_locale() {
  std::setlocale(LC_CTYPE, "");
  const auto is_utf8 = [] {
    const std::string_view set = ::nl_langinfo(CODESET);
    return set == "UTF-8" || set == "utf8";
  };
  for (const char* name : {"C.UTF-8", "C.utf8", "en_US.UTF-8", "UTF-8"}) {
    if (is_utf8()) return;
    std::setlocale(LC_CTYPE, name);
  }
}

// Standard input as bytes, with Ctrl-C and a new size noticed while it waits.
class Input {
 public:
  explicit Input(Signals& signals) : signals_(signals) {}

  enum class Event { byte, interrupt, resize, end };
  Event next(char& byte) {
    if (at_ < size_) return byte = bytes_[at_++], Event::byte;
    for (;;) {
      if (signals_.take_interrupt()) return Event::interrupt;
      if (signals_.take_resize()) return Event::resize;
      pollfd wanted[] = {{STDIN_FILENO, POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
      if (::poll(wanted, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return Event::end;
      }
      if (wanted[1].revents) {
        signals_.empty();
        continue;
      }
      const ssize_t count = ::read(STDIN_FILENO, bytes_, sizeof bytes_);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count <= 0) return Event::end;
      at_ = 0;
      size_ = static_cast<size_t>(count);
      return byte = bytes_[at_++], Event::byte;
    }
  }

 private:
  Signals& signals_;
  char bytes_[4096];
  size_t at_ = 0, size_ = 0;
};

// Where nothing can be edited: lines as they come.
class PlainLines final : public LineEditor {
 public:
  explicit PlainLines(Signals& signals) : input_(signals) {}

  Got read(const std::string& prompt, std::string& line) override {
    std::fwrite(prompt.data(), 1, prompt.size(), stdout);
    std::fflush(stdout);
    std::string bytes;
    for (char byte = 0;;) {
      const auto event = input_.next(byte);
      if (event == Input::Event::resize) continue;
      const bool last = event != Input::Event::byte;
      if (!last && byte != '\n') {
        bytes += byte;
        continue;
      }
      line = narrow(wide(bytes));
      if (event == Input::Event::interrupt) return Got::interrupted;
      return last && bytes.empty() ? Got::end : Got::line;
    }
  }
  void remember(const std::string&) override {}

 private:
  Input input_;
};

class EditedLines final : public LineEditor {
 public:
  EditedLines(const std::filesystem::path& history, Signals& signals)
      : input_(signals), typed_(history), keep_(!history.empty()) {
    want_utf8_locale();
    editor_ = ::el_init("impetus", stdin, stdout, stderr);
    entries_ = ::history_winit();
    if (editor_ == nullptr || entries_ == nullptr) return;
    HistEventW event;
    ::history_w(entries_, &event, H_SETSIZE, static_cast<int>(InputHistory::kEntriesMax));
    for (const std::string& entry : typed_.entries()) enter(entry);
    ::el_wset(editor_, EL_CLIENTDATA, this);
    ::el_wset(editor_, EL_PROMPT, &EditedLines::prompt_of);
    ::el_wset(editor_, EL_EDITOR, L"emacs");
    ::el_wset(editor_, EL_SIGNAL, 0);
    ::el_wset(editor_, EL_HIST, ::history_w, entries_);
    ::el_wset(editor_, EL_GETCFN, &EditedLines::read_char);
    bind_keys();
    ::el_source(editor_, nullptr);
    // Between two lines as QuietInput has it: a key that came while the terminal gathers lines of
    // its own would be shown, and a Ctrl-D lost.
    ::el_wset(editor_, EL_SETTY, L"-x", L"-echo", L"-icanon", nullptr);
  }
  ~EditedLines() override {
    if (editor_) ::el_end(editor_);
    if (entries_) ::history_wend(entries_);
  }

  bool works() const { return editor_ && entries_; }

  Got read(const std::string& prompt, std::string& line) override {
    prompt_ = wide(prompt);
    interrupted_ = false;
    say(kPasteOn);
    int count = 0;
    const wchar_t* text = ::el_wgets(editor_, &count);
    say(kPasteOff);
    if (interrupted_) {
      line = narrow(stood_);
      std::fputs("\n", stdout);
      return Got::interrupted;
    }
    if (text == nullptr || count <= 0) {
      std::fputs("\n", stdout);
      return Got::end;
    }
    line = narrow({text, static_cast<size_t>(count)});
    if (line.ends_with('\n')) line.pop_back();
    return Got::line;
  }

  void remember(const std::string& entry) override {
    if (entry.empty()) return;
    enter(entry);
    if (!keep_) return;
    if (const auto kept = typed_.add(entry); !kept.ok() && !told_) {
      told_ = true;
      log::warn("{}; what is typed is forgotten at the end", kept.error().message);
    }
  }

 private:
  static EditedLines& self(EditLine* editor) {
    void* data = nullptr;
    ::el_wget(editor, EL_CLIENTDATA, &data);
    return *static_cast<EditedLines*>(data);
  }
  static wchar_t* prompt_of(EditLine* editor) { return self(editor).prompt_.data(); }

  void say(std::string_view sequence) {
    std::fwrite(sequence.data(), 1, sequence.size(), stdout);
    std::fflush(stdout);
  }

  void enter(const std::string& entry) {
    HistEventW event;
    const std::wstring text = wide(entry);
    if (::history_w(entries_, &event, H_FIRST) == 0 && text == event.str) return;
    ::history_w(entries_, &event, H_ENTER, text.c_str());
  }

  void bind_keys() {
    ::el_wset(editor_, EL_ADDFN, L"impetus-paste", L"Insert what the terminal pastes",
              &EditedLines::paste);
    ::el_wset(editor_, EL_ADDFN, L"impetus-line", L"Begin a new line", &EditedLines::new_line);
    constexpr const wchar_t* keys[][2] = {
        {L"\\e[200~", L"impetus-paste"},     {L"\\e^M", L"impetus-line"},
        {L"\\e^J", L"impetus-line"},         {L"^R", L"em-inc-search-prev"},
        {L"\\e[1;5D", L"ed-prev-word"},      {L"\\e[1;5C", L"em-next-word"},
        {L"\\e[1;3D", L"ed-prev-word"},      {L"\\e[1;3C", L"em-next-word"},
        {L"\\e[H", L"ed-move-to-beg"},       {L"\\e[F", L"ed-move-to-end"},
        {L"\\eOH", L"ed-move-to-beg"},       {L"\\eOF", L"ed-move-to-end"},
        {L"\\e[1~", L"ed-move-to-beg"},      {L"\\e[4~", L"ed-move-to-end"},
        {L"\\e[3~", L"ed-delete-next-char"}, {L"^W", L"ed-delete-prev-word"},
    };
    for (const auto& [key, function] : keys) {
      ::el_wset(editor_, EL_BIND, key, function, nullptr);
    }
  }

  // One character, decoded here: what libedit would do depends on the locale, and a signal that
  // comes just before its read would wait for the next key.
  static int read_char(EditLine* editor, wchar_t* out) {
    EditedLines& it = self(editor);
    std::string bytes;
    for (char byte = 0;;) {
      switch (it.input_.next(byte)) {
        case Input::Event::end:
          return 0;
        case Input::Event::interrupt:
          it.interrupted_ = true;
          it.stood_ = it.line_now();
          errno = EINTR;
          return -1;
        case Input::Event::resize:
          it.resize();
          continue;
        case Input::Event::byte:
          break;
      }
      bytes += byte;
      if (complete_utf8_prefix(bytes) < bytes.size()) continue;
      *out = static_cast<wchar_t>(unicode::decode(repair_utf8(bytes).c_str()).code);
      return 1;
    }
  }

  std::wstring line_now() const {
    const LineInfoW* line = ::el_wline(editor_);
    return {line->buffer, line->lastchar};
  }

  // libedit would draw the line anew where the cursor happens to be. Terminals that break lines
  // anew leave it as many rows below the line's beginning as the new width makes of it.
  void resize() {
    const LineInfoW* line = ::el_wline(editor_);
    const int width = std::max(1, terminal_columns(STDOUT_FILENO));
    int rows = 0, column = 0;
    const auto pass = [&](wchar_t c) {
      const int columns = c == L'\n' ? 0 : std::max(0, unicode::columns(static_cast<uint32_t>(c)));
      if (c == L'\n' || column + columns > width) {
        ++rows;
        column = 0;
      }
      column += columns;
    };
    for (const wchar_t c : prompt_) pass(c);
    for (const wchar_t* c = line->buffer; c < line->cursor; ++c) pass(*c);
    if (rows > 0) fmt::print("\033[{}A", rows);
    say("\r\033[J");
    ::el_resize(editor_);
    ::el_wset(editor_, EL_REFRESH);
  }

  // Reads to the paste's end mark: nothing in it is a command.
  static unsigned char paste(EditLine* editor, wint_t) {
    std::wstring text;
    wchar_t c = 0;
    while (::el_wgetc(editor, &c) == 1) {
      text += c == L'\r' ? L'\n' : c;
      if (text.ends_with(kPasteEnd)) {
        text.resize(text.size() - kPasteEnd.size());
        return self(editor).insert(std::move(text));
      }
    }
    return CC_EOF;
  }
  static unsigned char new_line(EditLine* editor, wint_t) { return self(editor).insert(L"\n"); }

  unsigned char insert(std::wstring text) {
    std::erase_if(text,
                  [](wchar_t c) { return c != L'\n' && std::iswcntrl(static_cast<wint_t>(c)); });
    if (!text.empty() && ::el_winsertstr(editor_, text.c_str()) != 0) return CC_ERROR;
    return CC_REFRESH;
  }

  const QuietInput quiet_;  // first: the terminal gets back what it had before libedit looked
  Input input_;
  InputHistory typed_;
  const bool keep_;
  bool told_ = false;
  EditLine* editor_ = nullptr;
  HistoryW* entries_ = nullptr;
  std::wstring prompt_;
  std::wstring stood_;
  bool interrupted_ = false;
};

}  // namespace

std::unique_ptr<LineEditor> LineEditor::open(const std::filesystem::path& history,
                                             Signals& signals) {
  if (editing_possible()) {
    auto edited = std::make_unique<EditedLines>(history, signals);
    if (edited->works()) return edited;
  }
  return std::make_unique<PlainLines>(signals);
}

}  // namespace impetus
