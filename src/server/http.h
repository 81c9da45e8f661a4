// Requests and responses as handlers see them: no sockets, no Beast.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace impetus {

using Query = std::vector<std::pair<std::string, std::string>>;
using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;  // percent-decoded, without the query
  Headers headers;   // names in lower case
  std::string body;
  std::string query = {};  // as it came, without the '?'; see parse_query

  // The first header of that (lower-case) name, or "".
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers = {};
};

// The error as clients expect it, with its status, and Retry-After where trying again helps.
HttpResponse error_response(const Error& error);

// Where a handler leaves its answer, now or later, from any thread: either respond() once, or
// begin() once, write() often, end() once. The connection takes it from there.
class Outbox {
 public:
  void respond(HttpResponse response);
  // The response is made where it is taken, not on this thread: long bodies of the device's
  // answers.
  void respond_with(std::function<HttpResponse()> make);
  void begin(HttpResponse head);  // its body is sent first
  void write(std::string data);
  void end();

  struct Taken {
    std::optional<HttpResponse> head;
    std::function<HttpResponse()> make;  // instead of a head: call it for one
    bool streaming = false;              // of the head: more follows
    std::string data;
    bool ended = false;
  };
  // What came since the last take. The connection's side.
  Taken take();
  // The handler's side: called when the client has waited for a head so long that one should go out
  // with what is known; at most once, from the connection's thread.
  void on_overdue(std::function<void()> overdue);
  // The connection's side: it has.
  void overdue();
  // Called, from the writing thread, when there is something to take after there was not.
  void on_ready(std::function<void()> ready);
  // Nobody takes any more: what waits is dropped, and so is what comes. Answers may own this box,
  // so it must not keep them.
  void close();

 private:
  void changed(std::unique_lock<std::mutex> lock);

  std::mutex mutex_;
  Taken pending_;
  bool notified_ = false;
  bool closed_ = false;
  std::function<void()> ready_, overdue_;
};

// "a=1&b=x%20y" to names and values in their order; '+' is a space, as browsers' forms have it.
// invalid_argument for a bad percent sign, for what is not UTF-8, and for a name that comes twice.
Result<Query> parse_query(std::string_view text);

// Path component decoding; nullopt where a percent sign is not followed by two hex digits.
std::optional<std::string> percent_decode(std::string_view text);

}  // namespace impetus
