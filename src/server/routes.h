// The endpoints: which path does what. Thread-safe; knows no sockets.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "runtime/runtime.h"
#include "server/hardware_reports.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/security.h"

namespace impetus {

class Routes {
 public:
  // Both outlive this and every request.
  Routes(Runtime& runtime, Metrics& metrics, const ServerOptions& options);

  struct Dispatched {
    std::string route;                // for metrics: the pattern, never the client's path
    std::vector<RequestHandle> work;  // dropping it cancels what still runs
    Headers headers;                  // for the response, whatever it will be
  };
  // Who may not come in, judged by the headers alone, before a body is read: 403 or 401.
  std::optional<HttpResponse> refusal(const HttpRequest& request) const;
  // Leaves the answer, now or later, in `outbox`. REQUIRES: no refusal(request). May take long
  // (parsing, tokenising): not for a thread that serves sockets, unless the method is GET or HEAD.
  Dispatched dispatch(HttpRequest request, const std::shared_ptr<Outbox>& outbox);

  // From now on not ready, and new work is refused.
  void drain() { draining_ = true; }

 private:
  using Work = std::vector<RequestHandle>;
  struct Route;
  static const std::vector<Route>& table();
  static const Route* match(const std::string& method, const std::string& path,
                            std::string& allowed);

  Work answer(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox, bool chat);
  Work embeddings(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox, bool legacy);
  Work benchmark(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox);
  void benchmark_history(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox) const;
  HttpResponse tokenize(const HttpRequest& request) const;
  HttpResponse detokenize(const HttpRequest& request) const;
  HttpResponse models() const;
  HttpResponse model(const std::string& id) const;
  HttpResponse model_details() const;
  HttpResponse status() const;
  HttpResponse ready() const;

  // The model that a request without one means: the only one of its kind.
  std::string default_model(std::string_view kind) const;

  Runtime& runtime_;
  Metrics& metrics_;
  ServerOptions options_;
  Gate gate_;
  HardwareReports hardware_;
  std::atomic<bool> draining_ = false;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace impetus
