// The HTTP/1.1 server: sockets, limits, streams, shutdown.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/runtime.h"
#include "server/options.h"

namespace impetus {

class Server {
 public:
  // Binds and listens. invalid_argument for an address that is none, or one beyond loopback without
  // an API key; io where the port is taken. `runtime` outlives the server.
  static Result<std::unique_ptr<Server>> listen(Runtime& runtime, ServerOptions options);
  ~Server();

  std::string url() const;  // "http://127.0.0.1:8080"

  // Serves on this thread and options.threads - 1 more until stop(), SIGTERM or SIGINT; then
  // refuses new work, lets running requests end within drain_seconds, and returns. A second signal
  // ends at once.
  void run();
  void stop();  // from any thread

 private:
  struct State;
  std::unique_ptr<State> state_;
  explicit Server(std::unique_ptr<State> state);
};

}  // namespace impetus
