#include "server/server.h"

#include <atomic>
#include <thread>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.h"
#include "server/session.h"

namespace impetus {

namespace net = boost::asio;
using tcp = net::ip::tcp;

struct Server::State {
  State(Runtime& runtime, ServerOptions given)
      : runtime(runtime),
        options(std::move(given)),
        routes(runtime, metrics, options),
        handlers(static_cast<size_t>(options.handler_threads)) {}

  net::awaitable<void> accept();
  void drain();

  Runtime& runtime;
  const ServerOptions options;
  Metrics metrics;
  Routes routes;
  std::atomic<bool> draining = false;
  std::atomic<int> connections = 0;
  std::atomic<int64_t> body_bytes = 0;
  net::thread_pool handlers;
  net::io_context context;
  // The acceptor, its coroutine and its closing share a strand.
  net::strand<net::io_context::executor_type> accepting{context.get_executor()};
  tcp::acceptor acceptor{accepting};
  net::signal_set signals{context};
  std::thread drainer;
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  // Answers still running write to this server's metrics and sockets: they end first.
  state_->runtime.drain(0);
  if (state_->drainer.joinable()) state_->drainer.join();
  state_->handlers.join();
}

Result<std::unique_ptr<Server>> Server::listen(Runtime& runtime, ServerOptions options) {
  const std::string host = options.host == "localhost" ? "127.0.0.1" : options.host;
  boost::system::error_code code;
  const auto address = net::ip::make_address(host, code);
  if (code) {
    return error(ErrorCode::invalid_argument, "'{}' is no IP address to listen on", options.host);
  }
  if (!address.is_loopback() && options.api_key.empty()) {
    return error(ErrorCode::invalid_argument,
                 "listening on {} lets others in: an API key is needed (--api-key)", host);
  }
  auto state = std::make_unique<State>(runtime, std::move(options));
  const tcp::endpoint endpoint(address, state->options.port);
  auto& acceptor = state->acceptor;
  acceptor.open(endpoint.protocol(), code);
  if (!code) acceptor.set_option(net::socket_base::reuse_address(true), code);
  if (!code) acceptor.bind(endpoint, code);
  if (!code) acceptor.listen(net::socket_base::max_listen_connections, code);
  if (code) {
    return error(ErrorCode::io, "cannot listen on {}:{}: {}; choose another by --port", host,
                 state->options.port, code.message());
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

std::string Server::url() const {
  boost::system::error_code code;
  const auto endpoint = state_->acceptor.local_endpoint(code);
  const std::string host = endpoint.address().to_string();
  return fmt::format("http://{}:{}", endpoint.address().is_v6() ? "[" + host + "]" : host,
                     endpoint.port());
}

net::awaitable<void> Server::State::accept() {
  while (!draining) try {
      boost::system::error_code code;
      tcp::socket socket = co_await acceptor.async_accept(
          net::make_strand(context), net::redirect_error(net::use_awaitable, code));
      if (code == net::error::operation_aborted) break;
      if (code) {  // out of descriptors, most likely: let some connections end first
        log::warn("accept: {}", code.message());
        net::steady_timer pause(context, std::chrono::milliseconds(50));
        co_await pause.async_wait(net::redirect_error(net::use_awaitable, code));
        continue;
      }
      if (connections >= options.connections_max) {
        const HttpResponse full =
            error_response(error(ErrorCode::unavailable, "too many connections"));
        socket.send(
            net::buffer(fmt::format(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
                "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                full.body.size(), full.body)),
            0, code);
        continue;
      }
      socket.set_option(tcp::no_delay(true), code);
      const auto executor = socket.get_executor();
      auto session = serve_connection(std::move(socket),
                                      {routes, metrics, options, handlers, body_bytes, draining});
      net::co_spawn(executor, std::move(session), [this](std::exception_ptr) { --connections; });
      ++connections;
    } catch (const std::exception& failure) {  // no memory for this connection; the next may do
      log::warn("accept: {}", failure.what());
    }
}

void Server::State::drain() {
  if (draining.exchange(true)) return;
  routes.drain();
  net::post(accepting, [this] {
    boost::system::error_code ignored;
    acceptor.close(ignored);
  });
  // The runtime's drain blocks, so it has a thread of its own; streams go on meanwhile.
  drainer = std::thread([this] {
    runtime.drain(options.drain_seconds);
    // The last answers are on their way: give their sockets a moment.
    for (int i = 0; i < 100 && connections > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    context.stop();
  });
}

void Server::run() {
  State& state = *state_;
  state.signals.add(SIGINT);
  state.signals.add(SIGTERM);
  state.signals.async_wait([&state](boost::system::error_code code, int) {
    if (code) return;
    log::info("shutting down: running requests may end, new ones are refused");
    state.drain();
    state.signals.async_wait([&state](boost::system::error_code again, int) {
      if (again) return;
      state.runtime.drain(0);
      state.context.stop();
    });
  });
  net::co_spawn(state.accepting, state.accept(), net::detached);
  std::vector<std::thread> threads;
  for (int i = 1; i < state.options.threads; ++i) {
    threads.emplace_back([&state] { state.context.run(); });
  }
  state.context.run();
  for (auto& thread : threads) thread.join();
}

void Server::stop() {
  net::post(state_->context, [this] { state_->drain(); });
}

}  // namespace impetus
