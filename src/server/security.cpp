#include "server/security.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

namespace impetus {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  });
  return result;
}

// Takes as long for every guess of the same length.
bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

std::optional<std::string> host_of(std::string_view authority) {
  std::string_view host = authority;
  std::string_view port;
  if (host.starts_with('[')) {
    const size_t close = host.find(']');
    if (close == std::string_view::npos) return std::nullopt;
    port = host.substr(close + 1);
    host = host.substr(1, close - 1);
    if (!port.empty() && !port.starts_with(':')) return std::nullopt;
  } else if (const size_t colon = host.rfind(':'); colon != std::string_view::npos) {
    port = host.substr(colon);
    host = host.substr(0, colon);
    if (host.find(':') != std::string_view::npos) return std::nullopt;
  }
  if (!port.empty() && (port.size() > 6 || !std::all_of(port.begin() + 1, port.end(), [](char c) {
                          return c >= '0' && c <= '9';
                        }))) {
    return std::nullopt;
  }
  if (host.empty()) return std::nullopt;
  return lower(host);
}

bool is_loopback_host(std::string_view host) {
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host == "localhost" || host == "localhost." || host == "::1") return true;
  if (!host.starts_with("127.")) return false;
  int parts = 0, digits = 0, value = 0;
  for (const char c : host) {  // four numbers: a name such as 127.0.0.1.example.org is none
    if (c == '.') {
      if (digits == 0) return false;
      ++parts;
      digits = value = 0;
    } else if (c >= '0' && c <= '9' && digits < 3) {
      value = value * 10 + (c - '0');
      ++digits;
      if (value > 255) return false;
    } else {
      return false;
    }
  }
  return parts == 3 && digits > 0;
}

Gate::Gate(const ServerOptions& options)
    : options_(options), loopback_(is_loopback_host(options.host)) {}

Result<void> Gate::check_sender(const HttpRequest& request) const {
  // Which of two would count is anybody's guess (RFC 9112, 3.2).
  if (std::ranges::count(request.headers, "host", &Headers::value_type::first) > 1) {
    return error(ErrorCode::invalid_argument, "the request has more than one Host header");
  }
  // A page that rebinds its name to 127.0.0.1 still sends its own name here. On other addresses the
  // key, which no foreign page has, does this work.
  if (loopback_) {
    const auto host = host_of(request.header("host"));
    const auto& allowed = options_.allowed_hosts;
    if (!host || (!is_loopback_host(*host) &&
                  std::find(allowed.begin(), allowed.end(), *host) == allowed.end())) {
      return error(ErrorCode::invalid_argument,
                   "the Host header '{}' is not this server; name further ones by --allowed-host",
                   request.header("host"));
    }
  }
  const std::string_view origin = request.header("origin");
  if (!origin.empty() && !origin_allowed(origin)) {
    return error(ErrorCode::invalid_argument,
                 "pages of '{}' may not use this server; allow them by --cors-origin", origin);
  }
  return {};
}

bool Gate::origin_allowed(std::string_view origin) const {
  for (const std::string& allowed : options_.cors_origins) {
    if (allowed == "*" || allowed == origin) return true;
  }
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!origin.starts_with(scheme)) continue;
    const auto host = host_of(origin.substr(scheme.size()));
    return host && is_loopback_host(*host);
  }
  return false;
}

Result<void> Gate::check_key(const HttpRequest& request) const {
  if (options_.api_key.empty()) return {};
  std::string_view key = request.header("x-api-key");
  if (key.empty()) {
    const std::string_view authorization = request.header("authorization");
    if (lower(authorization.substr(0, 7)) == "bearer ") key = authorization.substr(7);
  }
  if (key.empty()) {
    return error(
        ErrorCode::unauthorized,
        "this server needs an API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'");
  }
  if (!equal_in_constant_time(key, options_.api_key)) {
    return error(ErrorCode::unauthorized, "the API key is wrong");
  }
  return {};
}

Headers Gate::cors(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || !origin_allowed(origin)) return {};
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Vary", "Origin"},
          {"Access-Control-Expose-Headers", "x-impetus-device"}};
}

std::string generate_api_key() {
  std::random_device source;
  std::string key = "imp-";
  for (int i = 0; i < 8; ++i) key += fmt::format("{:08x}", source());
  return key;
}

}  // namespace impetus
