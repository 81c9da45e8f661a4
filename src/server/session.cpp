#include "server/session.h"

#include <chrono>
#include <memory>
#include <optional>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>

#include <poll.h>

#include "base/log.h"

namespace impetus {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = net::ip::tcp;
using net::use_awaitable;

using Parser = http::request_parser<http::string_body>;

std::chrono::nanoseconds duration(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

auto caught(boost::system::error_code& code) {
  return net::redirect_error(use_awaitable, code);
}

// Wakes the connection's coroutine from other threads. Shared with the outbox, which may outlive
// it.
struct Wake {
  explicit Wake(net::any_io_executor executor) : timer(std::move(executor)) {}
  net::steady_timer timer;
};

// Whether the client closed its side.
bool hung_up(tcp::socket& socket) {
  pollfd state{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// Bytes of bodies held by all requests; gives its share back when it goes.
class BodyShare {
 public:
  explicit BodyShare(std::atomic<int64_t>& total) : total_(total) {}
  BodyShare(const BodyShare&) = delete;
  BodyShare& operator=(const BodyShare&) = delete;
  ~BodyShare() { release(); }
  bool take(int64_t bytes, int64_t most) {
    release();
    bytes_ = bytes;
    return (total_ += bytes) <= most;
  }
  void release() { total_ -= std::exchange(bytes_, 0); }

 private:
  std::atomic<int64_t>& total_;
  int64_t bytes_ = 0;
};

// Wakes the connection when something arrives while it owes an answer: most often the client's
// goodbye, which hung_up() then tells from a pipelined request.
void watch_for_hangup(tcp::socket& socket, std::shared_ptr<Wake> wake,
                      net::cancellation_slot slot) {
  socket.async_wait(tcp::socket::wait_read,
                    net::bind_cancellation_slot(slot, [wake](boost::system::error_code code) {
                      if (!code) wake->timer.cancel();
                    }));
}

class Session {
 public:
  Session(tcp::socket socket, SessionContext context)
      : stream_(std::move(socket)), context_(context), body_share_(context.body_bytes) {}

  net::awaitable<void> run() {
    while (!context_.draining) {
      if (!co_await read_request()) break;
      if (!co_await answer()) break;
    }
    boost::system::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    // Reads what the client still sends, briefly, so that closing does not reset what it has not
    // read.
    stream_.expires_after(std::chrono::seconds(2));
    char sink[16384];
    for (int i = 0; i < 2048; ++i) {
      boost::system::error_code code;
      co_await stream_.async_read_some(net::buffer(sink), caught(code));
      if (code) break;
    }
  }

 private:
  // False: the connection is over (and has been answered where there was something to answer).
  net::awaitable<bool> read_request() {
    boost::system::error_code code;
    if (buffer_.size() == 0) {
      stream_.expires_after(duration(context_.options.idle_seconds));
      const size_t count = co_await stream_.async_read_some(buffer_.prepare(4096), caught(code));
      if (code) co_return false;
      buffer_.commit(count);
    }
    parser_.emplace();
    parser_->header_limit(static_cast<uint32_t>(context_.options.header_bytes_max));
    parser_->body_limit(static_cast<uint64_t>(context_.options.body_bytes_max));
    stream_.expires_after(duration(context_.options.header_seconds));
    co_await http::async_read_header(stream_, buffer_, *parser_, caught(code));
    if (code) co_return co_await refuse(code);
    if (!co_await admit()) co_return false;
    if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
      co_await net::async_write(
          stream_, net::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")), caught(code));
      if (code) co_return false;
    }
    stream_.expires_after(duration(context_.options.body_seconds));
    co_await http::async_read(stream_, buffer_, *parser_, caught(code));
    if (code) co_return co_await refuse(code);
    co_return true;
  }

  // Answers what could not be read. Always false: the bytes that follow have no known meaning.
  net::awaitable<bool> refuse(boost::system::error_code code) {
    const auto& options = context_.options;
    int status = 400;
    std::string why = "the request is not HTTP/1.1: " + code.message();
    // Gone, or too slow: a timeout has closed the socket already.
    if (code == http::error::end_of_stream || code == net::error::connection_reset ||
        code == beast::error::timeout) {
      co_return false;
    }
    if (code == http::error::body_limit) {
      status = 413;
      why = fmt::format("the body is larger than {} bytes", options.body_bytes_max);
    } else if (code == http::error::header_limit || code == http::error::buffer_overflow) {
      status = 431;
      why = fmt::format("the headers are larger than {} bytes", options.header_bytes_max);
    }
    HttpResponse response = error_response(error(ErrorCode::invalid_argument, "{}", why));
    response.status = status;
    context_.metrics.request_ended("unreadable", status, 0);
    keep_alive_ = false;
    head_only_ = false;
    version_ = 11;
    co_await send(std::move(response), {}, /*streaming=*/false);
    co_return false;
  }

  // Judges the headers before the body is read; false where they were refused, and answered.
  net::awaitable<bool> admit() {
    const auto& message = parser_->get();
    request_ = {};
    request_.method = std::string(message.method_string());
    const std::string_view target(message.target().data(), message.target().size());
    const auto path = percent_decode(target.substr(0, target.find('?')));
    for (const auto& field : message) {
      std::string name(field.name_string());
      for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
      request_.headers.emplace_back(std::move(name), std::string(field.value()));
    }
    request_.path = path.value_or("");
    if (const size_t mark = target.find('?'); mark != std::string_view::npos) {
      request_.query = std::string(target.substr(mark + 1));
    }
    keep_alive_ = message.keep_alive() && !context_.draining;
    version_ = message.version();
    head_only_ = request_.method == "HEAD";

    const auto length = parser_->content_length();
    const auto body_bytes = length               ? static_cast<int64_t>(*length)
                            : parser_->chunked() ? context_.options.body_bytes_max
                                                 : 0;
    std::optional<HttpResponse> refused;
    if (!path) {
      refused =
          error_response(error(ErrorCode::invalid_argument, "the path is not percent-encoded"));
    } else if (refused = context_.routes.refusal(request_); refused) {
    } else if (!body_share_.take(body_bytes, context_.options.bodies_bytes_max)) {
      refused = error_response(
          error(ErrorCode::unavailable, "requests hold too much memory just now; try again later"));
    }
    if (!refused) co_return true;
    context_.metrics.request_ended("refused", refused->status, 0);
    keep_alive_ = keep_alive_ && body_bytes == 0;  // an unread body would be taken for a request
    const bool sent = co_await send(std::move(*refused), {}, /*streaming=*/false);
    co_return sent&& keep_alive_&& co_await read_request();
  }

  net::awaitable<bool> answer() {
    const auto started = std::chrono::steady_clock::now();
    request_.body = std::move(parser_->get().body());
    parser_.reset();
    auto outbox = std::make_shared<Outbox>();
    const std::shared_ptr<void> closing(nullptr, [outbox](void*) { outbox->close(); });
    Routes::Dispatched dispatched;
    const bool quick = request_.method != "POST";
    const auto dispatch = [&] {
      try {
        dispatched = context_.routes.dispatch(std::move(request_), outbox);
      } catch (const std::exception& failure) {  // out of memory while handling: this request's end
        dispatched = {"failed", {}, {}};
        outbox->respond(error_response(error(ErrorCode::internal, "{}", failure.what())));
      }
    };
    if (quick) {
      dispatch();
    } else {
      co_await elsewhere(dispatch);
    }
    request_ = {};
    body_share_.release();
    const int status = co_await deliver(*outbox, dispatched);
    // A client that left before its answer counts under 499, as proxies have it.
    context_.metrics.request_ended(
        dispatched.route, status,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    co_return status != 499 && keep_alive_;
  }

  // Runs something that takes its time where no socket waits for it.
  template <typename Function>
  net::awaitable<void> elsewhere(Function& function) {
    co_await net::co_spawn(
        context_.handlers,
        [&function]() -> net::awaitable<void> {
          function();
          co_return;
        },
        use_awaitable);
  }

  // Sends what the handler leaves until it ends. The status sent, or 499 where the client went
  // away: `dispatched` then goes with this request and cancels its work.
  net::awaitable<int> deliver(Outbox& outbox, Routes::Dispatched& dispatched) {
    auto wake = std::make_shared<Wake>(stream_.get_executor());
    outbox.on_ready(
        [wake] { net::post(wake->timer.get_executor(), [wake] { wake->timer.cancel(); }); });
    net::cancellation_signal stop_watch;
    bool watching = false;
    int status = 0;
    bool streaming = false;
    const auto started = std::chrono::steady_clock::now();
    for (;;) {
      Outbox::Taken taken = outbox.take();
      if (taken.make) {
        const auto make = [&] { taken.head = taken.make(); };
        co_await elsewhere(make);
      }
      if (taken.head) {
        status = taken.head->status;
        streaming = taken.streaming;
        for (auto& header : dispatched.headers) taken.head->headers.push_back(std::move(header));
        if (!co_await send(std::move(*taken.head), std::move(taken.data), streaming)) {
          status = 499;
          break;
        }
        taken.data.clear();
      }
      if (!taken.data.empty() && !co_await send_chunk(taken.data)) {
        status = 499;
        break;
      }
      if (taken.ended) {
        if (streaming && !co_await send_last_chunk()) status = 499;
        break;
      }
      if (taken.head || !taken.data.empty()) continue;  // sending took time: look again
      if (hung_up(stream_.socket())) {
        status = 499;
        break;
      }
      if (!watching) {
        watching = true;
        watch_for_hangup(stream_.socket(), wake, stop_watch.slot());
      }
      // The watch reports once; the tick finds a goodbye behind pipelined bytes.
      boost::system::error_code code;
      wake->timer.expires_after(std::chrono::milliseconds(250));
      co_await wake->timer.async_wait(caught(code));
      // A comment keeps proxies and clients from giving up on a long prefill.
      const auto now = std::chrono::steady_clock::now();
      if (status == 0 && now - started >= duration(context_.options.keep_alive_seconds)) {
        outbox.overdue();
      }
      if (streaming && now - last_sent_ >= duration(context_.options.keep_alive_seconds) &&
          !co_await send_chunk(": keep-alive\n\n")) {
        status = 499;
        break;
      }
    }
    stop_watch.emit(net::cancellation_type::all);
    co_return status;
  }

  net::awaitable<bool> send(HttpResponse response, std::string more, bool streaming) {
    http::response<http::string_body> message;
    message.version(version_);
    message.result(static_cast<unsigned>(response.status));
    message.set(http::field::server, "impetus");
    message.set("X-Content-Type-Options", "nosniff");
    for (const auto& [name, value] : response.headers) message.set(name, value);
    if (streaming) keep_alive_ = keep_alive_ && version_ >= 11;
    message.keep_alive(keep_alive_);
    if (response.status != 204) message.set(http::field::content_type, response.content_type);
    std::string body = std::move(response.body) + more;
    chunked_ = streaming && version_ >= 11;
    stream_.expires_after(duration(context_.options.write_seconds));
    boost::system::error_code code;
    if (!streaming) {
      message.body() = std::move(body);
      message.prepare_payload();
      if (head_only_) {
        http::response_serializer<http::string_body> serializer(message);
        co_await http::async_write_header(stream_, serializer, caught(code));
      } else {
        co_await http::async_write(stream_, message, caught(code));
      }
      co_return !code;
    }
    message.chunked(chunked_);
    http::response_serializer<http::string_body> serializer(message);
    co_await http::async_write_header(stream_, serializer, caught(code));
    if (code) co_return false;
    co_return body.empty() || co_await send_chunk(body);
  }

  net::awaitable<bool> send_chunk(const std::string& data) {
    stream_.expires_after(duration(context_.options.write_seconds));
    last_sent_ = std::chrono::steady_clock::now();
    boost::system::error_code code;
    if (chunked_) {
      co_await net::async_write(stream_, http::make_chunk(net::buffer(data)), caught(code));
    } else {
      co_await net::async_write(stream_, net::buffer(data), caught(code));
    }
    co_return !code;
  }

  net::awaitable<bool> send_last_chunk() {
    if (!chunked_) co_return true;
    boost::system::error_code code;
    co_await net::async_write(stream_, http::make_chunk_last(), caught(code));
    co_return !code;
  }

  beast::tcp_stream stream_;
  SessionContext context_;
  beast::flat_buffer buffer_{128 << 10};
  std::optional<Parser> parser_;
  BodyShare body_share_;
  HttpRequest request_;
  std::chrono::steady_clock::time_point last_sent_ = std::chrono::steady_clock::now();
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool head_only_ = false;
  bool chunked_ = false;
};

}  // namespace

net::awaitable<void> serve_connection(tcp::socket socket, SessionContext context) {
  context.metrics.connection(+1);
  try {
    Session session(std::move(socket), context);
    co_await session.run();
  } catch (const std::exception& failure) {  // the socket died in an odd way, or no memory was left
    log::debug("connection: {}", failure.what());
  }
  context.metrics.connection(-1);
}

}  // namespace impetus
