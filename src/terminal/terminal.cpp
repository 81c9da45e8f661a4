#include "terminal/terminal.h"

#include <atomic>
#include <cassert>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/format.h>

namespace impetus {
namespace {

// What a signal handler may touch.
std::atomic<bool> interrupted, resized;
std::atomic<int> wake_fd = -1;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

constexpr int kCaught[] = {SIGINT, SIGWINCH, SIGCONT};
struct sigaction before[std::size(kCaught)];
int pipe_ends[2] = {-1, -1};

void note(int signal) {
  const int kept = errno;
  (signal == SIGINT ? interrupted : resized) = true;
  const char byte = 0;
  // A full pipe is readable already.
  [[maybe_unused]] const auto written = ::write(wake_fd, &byte, 1);
  errno = kept;
}

bool dumb() {
  const char* term = std::getenv("TERM");
  return term == nullptr || *term == '\0' || std::string_view(term) == "dumb";
}

}  // namespace

int terminal_columns(int fd) {
  winsize size = {};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool styles_wanted(int fd) {
  const char* no_colour = std::getenv("NO_COLOR");
  return ::isatty(fd) == 1 && !dumb() && (no_colour == nullptr || *no_colour == '\0');
}

bool editing_possible() {
  return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1 && !dumb();
}

std::string Style::dimmed(std::string_view text) const {
  return fmt::format("{}{}{}", dim(), text, plain());
}

Signals::Signals() {
  assert(wake_fd == -1);
  if (::pipe(pipe_ends) == 0) {
    for (const int end : pipe_ends) {
      ::fcntl(end, F_SETFL, O_NONBLOCK);
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
  }
  interrupted = resized = false;
  wake_fd = pipe_ends[1];
  struct sigaction action = {};
  action.sa_handler = note;  // without SA_RESTART: a read that waits returns
  for (size_t i = 0; i < std::size(kCaught); ++i) ::sigaction(kCaught[i], &action, &before[i]);
}

Signals::~Signals() {
  for (size_t i = 0; i < std::size(kCaught); ++i) ::sigaction(kCaught[i], &before[i], nullptr);
  wake_fd = -1;
  for (int& end : pipe_ends) {
    if (end >= 0) ::close(end);
    end = -1;
  }
}

bool Signals::take_interrupt() {
  return interrupted.exchange(false);
}

bool Signals::take_resize() {
  return resized.exchange(false);
}

int Signals::fd() const {
  return pipe_ends[0];
}

void Signals::empty() {
  char bytes[64];
  while (::read(pipe_ends[0], bytes, sizeof bytes) > 0) {
  }
}

struct QuietInput::Saved {
  termios modes;
};

QuietInput::QuietInput() {
  termios modes = {};
  if (::tcgetattr(STDIN_FILENO, &modes) != 0) return;
  saved_ = new Saved{modes};
  modes.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  modes.c_cc[VMIN] = 1;
  modes.c_cc[VTIME] = 0;
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &modes);
}

QuietInput::~QuietInput() {
  if (saved_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_->modes);
  delete saved_;
}

}  // namespace impetus
