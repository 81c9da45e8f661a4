// One connection: requests in, responses and streams out. A coroutine on its own strand.
#pragma once

#include <atomic>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/metrics.h"
#include "server/options.h"
#include "server/routes.h"

namespace impetus {

struct SessionContext {
  Routes& routes;
  Metrics& metrics;
  const ServerOptions& options;
  boost::asio::thread_pool& handlers;
  std::atomic<int64_t>& body_bytes;   // held by all requests
  const std::atomic<bool>& draining;  // connections close after the request at hand
};

boost::asio::awaitable<void> serve_connection(boost::asio::ip::tcp::socket socket,
                                              SessionContext context);

}  // namespace impetus
