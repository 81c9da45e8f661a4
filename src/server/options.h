#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace impetus {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;                    // 0: any free one
  std::string api_key;                     // empty: none needed (loopback only)
  std::vector<std::string> allowed_hosts;  // beside the loopback names, in the Host header
  std::vector<std::string> cors_origins;   // beside loopback origins; "*" allows every one
  bool accept_token_ids = false;           // embeddings take token arrays as this model's ids
  int64_t body_bytes_max = 16 << 20;
  int64_t header_bytes_max = 32 << 10;
  int connections_max = 1024;
  double header_seconds = 10;  // from a request's first byte to the end of its headers
  double body_seconds = 60;
  double idle_seconds = 75;              // between requests of one connection
  double write_seconds = 30;             // for a client to take what it was sent
  double keep_alive_seconds = 10;        // between comments of a stream that has nothing to say
  double drain_seconds = 30;             // for running requests after SIGTERM
  int64_t bodies_bytes_max = 256 << 20;  // of all requests being read or handled at once
  int threads = 2;                       // for sockets
  int handler_threads = 2;               // for parsing, templates, tokenising and long answers
};

}  // namespace impetus
